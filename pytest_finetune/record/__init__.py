"""The record: what a session found out, as one JSON document, and the views of it.

`assemble` builds the document from evidence; everything else here is a pure function of the document.
"""
