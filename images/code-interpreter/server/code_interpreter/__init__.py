"""Code interpreter: an HTTP server on port 49999 in front of kernels of several languages.

The surface is that of the server in E2B's template `code-interpreter-v1`, so that its SDKs work unchanged.

    app         HTTP: routes, bodies, the stream of lines
    contexts    contexts by id, and the default one of each language
    context     one kernel: its queue of cells, its environment, what happens when it ends
    execution   the bounded stream of events of one cell
    events      events, and how they are written
    sandbox     what the guest agent says of this sandbox
    kernels     Jupyter kernels; bash and node, driven over pipes
    ipython     what runs inside the Python kernel: charts and data of results

Contexts live in this process, kernels are its children; only sockets and connection files of kernels are on disk, below
/run. A kernel that dies fails the cell that runs and is started anew by the next one. When the server dies, the
supervisor of start commands kills its kernels and starts a new server with new contexts: ids of before are 404.
"""
