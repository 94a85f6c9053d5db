-- carrack for Lmod. Installed as PREFIX/share/modulefiles/carrack/VERSION.lua, it finds the prefix by itself.
help([[
carrack carries container images to Slurm jobs: `carrack pull`, `carrack submit job.toml`, `carrack logs`.
`carrack --help` lists the commands, `man carrack` explains them.
]])
whatis("Name: carrack")
whatis("Version: 0.1.0")
whatis("Category: containers")
whatis("Description: From an OCI image in a registry to a running Slurm job step, without a daemon, setuid or root")

local here = myFileName():match("^(.*)/share/modulefiles/carrack/[^/]*$") or error("carrack: the modulefile must stay in its prefix")
prepend_path("PATH", pathJoin(here, "bin"))
prepend_path("MANPATH", pathJoin(here, "share/man"))
