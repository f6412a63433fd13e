// The store behind the test cluster's API server: etcd as its module builds it. Debian 12's 3.4 is too old for Kubernetes 1.36.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
