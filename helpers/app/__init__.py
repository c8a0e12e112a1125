"""The application: a prompt's tokens, and what each layer's vectors say, in a browser or a notebook.

settings  what a visitor asked for: as a plan, as a link, as Python
desk      the one model in memory, and the one thread that uses it
view      a request's results as HTML
page      what is on the page, and what happens on a click
server    who may ask for what
"""
