"""HTTP: routes, pages and the connection under them."""
