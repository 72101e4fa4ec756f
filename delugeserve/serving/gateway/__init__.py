"""Image classification over plain HTTP: an ASGI application in front of a server's gRPC port.

``python -m delugeserve.serving.gateway --settings FILE`` runs it. It has no state of its own, so it
can be restarted at any time.
"""
