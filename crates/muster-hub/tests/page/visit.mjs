// Visits a page of the hub as a browser does, and tells in JSON what stands there in the end.
//
// node visit.mjs TOOLS LINK STEPS: STEPS is a JSON array of {"set": {id: value}} and {"submit": id}. After the start and after each
// step it waits until the page says something new. The certificate is checked: NODE_EXTRA_CA_CERTS names the hub's authority.

import { createHash } from 'node:crypto';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const [tools, link, steps] = process.argv.slice(2);
const { JSDOM, VirtualConsole } = createRequire(join(tools, 'node_modules', 'x.js'))('jsdom');

const page = await fetch(link.split('#')[0]);
const policy = page.headers.get('content-security-policy');
const html = await page.text();
const errors = [];
const asked = [];
const dom = new JSDOM(html, {
  url: link,
  runScripts: 'outside-only',
  virtualConsole: new VirtualConsole().on('jsdomError', error => errors.push(String(error))),
});
const { window } = dom;
const { document } = window;
window.fetch = async (path, init) => {
  const url = new URL(path, window.location.href);
  asked.push(url.pathname + url.search);
  const answer = await fetch(url, init);
  // A turn later, as the page's own code will have seen it.
  setTimeout(() => { answered += 1; }, 0);
  return answer;
};
let answered = 0;

const allowed = text => policy.includes(`'sha256-${createHash('sha256').update(text).digest('base64')}'`);
const scripts = [...document.querySelectorAll('script')];
const blocked = scripts.some(script => script.src || !allowed(script.textContent))
  || [...document.querySelectorAll('style')].some(style => !allowed(style.textContent))
  || document.querySelector('[style], [onload], [onclick], [onerror], img, link, iframe') !== null;
const words = () => ['what', 'said'].map(id => document.getElementById(id).textContent).join('\n');
const until = async holds => {
  for (const end = Date.now() + 60_000; !holds();) {
    if (Date.now() > end) throw new Error(`the page says no more than: ${words()}`);
    await new Promise(next => setTimeout(next, 5));
  }
};
const settled = async act => {
  const before = words();
  act();
  await until(() => words() !== before && answered === asked.length);
};

await settled(() => scripts.forEach(script => window.eval(script.textContent)));
for (const step of JSON.parse(steps)) {
  for (const [id, value] of Object.entries(step.set ?? {})) document.getElementById(id).value = value;
  if (step.submit) await settled(() => document.getElementById(step.submit).requestSubmit());
}
const of = id => ({ text: document.getElementById(id).textContent, bad: document.getElementById(id).className === 'bad' });
console.log(JSON.stringify({
  what: of('what'),
  said: of('said'),
  command: of('command').text,
  form: !document.getElementById('new').hidden,
  location: window.location.href,
  images: document.images.length,
  asked,
  blocked,
  errors,
}));
