// A real OpenID Connect provider (oidc-provider from npm) on loopback, for the tests of single sign-on.
//
// node server.mjs TOOLS [alg=ES256] [basic=no]: prints its port, reads the redirect URI of the client `muster` from its first line of
// input, and then serves. Whoever logs in as `subject|e-mail|yes` is that: with that e-mail, verified or (`no`) not.

import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import { generateKeyPairSync } from 'node:crypto';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [tools, ...options] = process.argv.slice(2);
const option = (name, otherwise) => options.find((one) => one.startsWith(name + '='))?.slice(name.length + 1) ?? otherwise;
// The package lies where install-test-tools put it, not beside this file.
const place = createRequire(tools + '/package.json').resolve('oidc-provider');
const { default: Provider } = await import(pathToFileURL(place).href);

const keys = [
  { ...generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' }), alg: 'RS256', use: 'sig', kid: 'rsa' },
  { ...generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' }), alg: 'ES256', use: 'sig', kid: 'ec' },
];

let answer = (_request, response) => response.writeHead(503).end('not yet');
const server = createServer((request, response) => answer(request, response));
server.listen(0, '127.0.0.1', () => console.log(server.address().port));

createInterface({ input: process.stdin }).once('line', (redirect) => {
  const provider = new Provider(`http://127.0.0.1:${server.address().port}`, {
    clients: [{
      client_id: 'muster',
      client_secret: 'a secret of the test, and: of no other',
      redirect_uris: [redirect],
      token_endpoint_auth_method: option('auth', 'client_secret_basic'),
      id_token_signed_response_alg: option('alg', 'RS256'),
      subject_type: 'pairwise',
    }],
    clientAuthMethods: [option('auth', 'client_secret_basic')],
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name'] },
    conformIdTokenClaims: option('claims', 'asked') === 'asked',
    cookies: { keys: ['of the test'] },
    jwks: { keys },
    // The subject is the first part of the login alone: the same person may come with another e-mail.
    subjectTypes: ['pairwise'],
    pairwiseIdentifier: (_context, account) => account.split('|')[0],
    pkce: { required: () => true },
    async findAccount(_context, id) {
      const [subject, email, verified] = id.split('|');
      const claims = { sub: subject, name: 'Somebody ' + subject, email: email || undefined, email_verified: verified === 'yes' };
      return { accountId: id, claims: async () => claims };
    },
  });
  answer = provider.callback();
  console.log('ready');
});
