"""The application: a prompt's tokens, and what each layer's vectors say, in a browser or a notebook.

settings  what a visitor asks for: as a plan, as a link, as lines of Python
scores    similarity of a reading to its prompt, and to the prompts that chance is made of
jobs      a request, from the queue to its rows
weighing  what readings are worth, told without the prompt
lens      what cheap lenses say of the same vectors
desk      the one model in memory, and the one thread that uses it
cells     the readings of each vector, the best of each method, and chance beside it
answers   of questions about what a vector is, as HTML
kept      the first view, as it was read earlier
view      a request's results as HTML (table, ladder, heatmap; parts of them); report, as a page that stands alone
chips     tokens to choose from
inputs    what a visitor can set
panel     the results of a request, or of two side by side, on the page; files, to download
page      what happens on a click
vector_settings, given, given_view, vector_tab   given vectors: what is asked, read, shown; the page's second tab
api       the page for programs
theme     fonts and colours; style.css, how results look
guard     who may ask for what; logins, how often a password may be guessed
server    start and stop
"""
