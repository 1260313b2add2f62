"""The papers' experiments on Dolmen: each a module, each a page with its figures, each repeated by one command."""
