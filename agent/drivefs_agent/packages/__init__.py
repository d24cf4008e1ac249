"""Packages that survive the box: what pip installs is kept in an immutable store on Drive, and comes back on the next box.

    layer        a venv on local disk, above the image's own packages, that plain pip writes into
    activation   the two files in the image that make its Python see the layer
    scan, pack   what is in a layer, and archives of it
    folder       where archives and manifests lie: on Drive through a daemon of drivefs, or in a directory
    history      manifests, their heads and their merging
    save         what is new in the layer goes to the store, its manifest last
    restore      the newest fitting manifest becomes a layer, safely, or nothing changes

Everything is a library without output; the commands are in ``drivefs_agent.cli_layer`` and ``drivefs_agent.cli_packages``.
"""
