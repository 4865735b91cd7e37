"""Arrays in, arrays out. Knows no file and no cluster; every function here runs in a notebook on typed-in arrays."""
