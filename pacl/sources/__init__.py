"""Brings each source, drawn or downloaded, into the form that `pacl.data` reads."""
