"""Runs on a host: asks /v2/health/live with the host's client certificate, its server certificate, none, or plainly."""

import http.client
import ssl
import sys

mode, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
if mode == "plain":
    connection: http.client.HTTPConnection = http.client.HTTPConnection(address, port, timeout=5)
else:
    context = ssl.create_default_context(cafile="/etc/ai102/pki/server_ca.pem")
    if mode != "none":
        context.load_cert_chain(f"/etc/ai102/pki/{mode}/fullchain.pem", f"/etc/ai102/pki/{mode}/key.pem")
    connection = http.client.HTTPSConnection(address, port, timeout=5, context=context)
try:
    connection.request("GET", "/v2/health/live")
    print("answer", connection.getresponse().status)
except (ssl.SSLError, ConnectionError) as error:
    print("no answer, refused:", error)
except (OSError, http.client.HTTPException) as error:
    print("no answer:", type(error).__name__, error)
