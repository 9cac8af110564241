"""The claims, the chapters and the page; reads the files of a run and never imports torch."""
