module sidestep.dev/testapps

go 1.19
