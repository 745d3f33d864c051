"""The HTTP service. It stores requests as rows and responds from rows; it never imports torch or the worker."""
