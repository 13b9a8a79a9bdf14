"""Model servers of the demo, real models from wheels, each a program of its own.

* `python -m isochrone.serve.models.chat --port N`: a language model behind the OpenAI API.
* `python -m isochrone.serve.models.voice --port N`: voice activity in audio, behind the Open Inference Protocol.

Both listen on loopback only: a site's Envoy is the way in. They print one line on standard output when they are ready,
stop on SIGTERM, and never outlive the process that started them.
"""
