"""The HTTP service: it writes what is wanted as rows and answers from rows. It never imports torch or the worker."""
