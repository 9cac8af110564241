"""The claims, the chapters and the page; read from the files of a run, without torch."""
