"""The functions of ``import tvmfbnet``: each checks what it was given, then calls one function of the package below.

The commands call the same functions. Nothing heavy is imported before a call needs it.
"""
