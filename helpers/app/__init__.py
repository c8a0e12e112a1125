"""The application: a prompt's tokens, and what each layer's vectors say, in a browser or a notebook.

settings  what a visitor asked for: as a plan, as a link, as Python
desk      the one model in memory, and the one thread that uses it
view      a request's results as HTML
chips     tokens to choose from
panel     a request's results on the page, and what can be kept of them
page      the inputs, and what happens on a click
api       the same for programs
theme     fonts and colours
server    who may ask for what
"""
