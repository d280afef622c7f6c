"""An SMTP server on loopback that writes each mail to a file. Arguments: port, folder, and options.

tls=CERT,KEY   offers STARTTLS and insists on it
login=USER:PASSWORD   insists on it
reject=ADDRESS   says 550 to this recipient
"""

import asyncio
import json
import ssl
import sys
from pathlib import Path

from aiosmtpd.smtp import SMTP, AuthResult

port, folder = int(sys.argv[1]), Path(sys.argv[2])
options = dict(option.split("=", 1) for option in sys.argv[3:])


class Handler:
    count = 0

    async def handle_RCPT(self, server, session, envelope, address, rcpt_options):
        if address == options.get("reject"):
            return "550 5.1.1 nobody of this name lives here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        Handler.count += 1
        mail = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "tls": session.ssl is not None,
            "login": session.auth_data.decode() if session.auth_data else None,
            "text": envelope.content.decode("utf-8", "replace"),
        }
        draft = folder / f"draft-{Handler.count}"
        draft.write_text(json.dumps(mail))
        draft.rename(folder / f"{Handler.count:03}.json")
        return "250 OK"


def authenticate(server, session, envelope, mechanism, data):
    good = f"{data.login.decode()}:{data.password.decode()}" == options["login"]
    return AuthResult(success=good, handled=good, auth_data=data.login)


async def main():
    settings = {}
    if "tls" in options:
        certificate, key = options["tls"].split(",")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        settings |= {"tls_context": context, "require_starttls": True}
    if "login" in options:
        settings |= {"authenticator": authenticate, "auth_required": True, "auth_require_tls": "tls" in options}
    server = await asyncio.get_running_loop().create_server(lambda: SMTP(Handler(), **settings), "127.0.0.1", port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
