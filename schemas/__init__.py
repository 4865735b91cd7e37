"""What things are: configs, presets, tables, paths, manifests, rejects and errors. No behaviour lives here."""
