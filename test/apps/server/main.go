// Command server is the peer of every test: one process, many ports, one manner per port. It is an ordinary program and
// must never know about the mesh.
//
// It prints JSON lines: first {"ready": true, "ports": {...}, "pid": n}, then (with --log) one per finished connection.
// Port 0 picks a free port. Every option may be given more than once.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// listFlag collects an option given many times.
type listFlag []string

func (l *listFlag) String() string { return strings.Join(*l, ",") }

func (l *listFlag) Set(value string) error {
	*l = append(*l, value)
	return nil
}

var usages = map[string]string{
	"echo":         "answers every byte",
	"banner":       "speaks first: \"hello CLIENT at LOCAL\", then echoes",
	"hash":         "reads to end of file, answers \"BYTES HASH\"",
	"halfclose":    "reads to end of file, waits a moment, answers \"after eof: BYTES\"",
	"source":       "BYTES@PORT: sends that many pattern bytes of seed 1 at once and closes",
	"bulk":         "the two-way transfer of probe bulk and goclient bulk",
	"reset":        "answers the first bytes with RST",
	"reset-accept": "sends RST at once",
	"slow":         "reads 1 KiB per second through a small buffer",
	"stall":        "accepts and never reads",
	"hold":         "accepts and reads until end of file without answering",
	"udp":          "UDP: answers \"CLIENT PAYLOAD\"",
}

var output sync.Mutex

func emit(value interface{}) {
	line, err := json.Marshal(value)
	if err != nil {
		fail("cannot encode: %v", err)
	}
	output.Lock()
	defer output.Unlock()
	os.Stdout.Write(append(line, '\n'))
}

func fail(format string, args ...interface{}) {
	fmt.Fprintf(os.Stderr, "server: "+format+"\n", args...)
	os.Exit(1)
}

// raiseOpenFiles lifts the soft limit to the hard one. A refusal shows itself later as EMFILE.
func raiseOpenFiles() {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		limit.Cur = limit.Max
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	}
}

func splitSize(mode, value string) (uint64, string) {
	if mode != "source" {
		return 0, value
	}
	parts := strings.SplitN(value, "@", 2)
	if len(parts) != 2 {
		fail("--source takes BYTES@PORT, not %q", value)
	}
	size, err := strconv.ParseUint(parts[0], 10, 63)
	if err != nil {
		fail("--source takes BYTES@PORT, not %q", value)
	}
	return size, parts[1]
}

func main() {
	values := map[string]*listFlag{}
	for mode, usage := range usages {
		values[mode] = &listFlag{}
		flag.Var(values[mode], mode, usage)
	}
	var binds, dnsAddresses, records listFlag
	flag.Var(&binds, "bind", "address to listen on, default all of both families")
	flag.Var(&dnsAddresses, "dns", "PORT or IP:PORT: DNS server on UDP and TCP; a port alone means every local address")
	flag.Var(&records, "record", "NAME=IP[,IP...] that the DNS server answers")
	logs := flag.Bool("log", false, "print a line per finished connection and per DNS question")
	flag.Parse()
	if flag.NArg() > 0 {
		fail("unexpected argument %q", flag.Arg(0))
	}
	if len(binds) == 0 {
		binds = listFlag{""}
	}
	raiseOpenFiles()

	ports := map[string][]int{}
	for mode, list := range values {
		for _, value := range *list {
			size, port := splitSize(mode, value)
			chosen := port
			for _, bind := range binds {
				number := listen(mode, net.JoinHostPort(bind, chosen), size, *logs)
				// Port 0 is chosen once and then used on every address.
				chosen = strconv.Itoa(number)
			}
			number, _ := strconv.Atoi(chosen)
			ports[mode] = append(ports[mode], number)
		}
	}
	if len(dnsAddresses) > 0 {
		table := parseRecords(records)
		for _, address := range dnsAddresses {
			ports["dns"] = append(ports["dns"], serveDNS(address, table, *logs))
		}
	}
	if len(ports) == 0 {
		fail("nothing to serve; see --help")
	}
	emit(map[string]interface{}{"ready": true, "ports": ports, "pid": os.Getpid()})
	select {}
}

// listen serves one mode on one address and returns its port.
func listen(mode, address string, size uint64, logs bool) int {
	if mode == "udp" {
		return serveUDP(address)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		fail("%v", err)
	}
	go acceptAll(mode, listener, size, logs)
	return listener.Addr().(*net.TCPAddr).Port
}

func serveUDP(address string) int {
	socket, err := net.ListenPacket("udp", address)
	if err != nil {
		fail("%v", err)
	}
	go func() {
		buffer := make([]byte, 65536)
		for {
			n, from, err := socket.ReadFrom(buffer)
			if err != nil {
				continue
			}
			// A client that left already is not this server's concern.
			_, _ = socket.WriteTo([]byte(from.String()+" "+string(buffer[:n])), from)
		}
	}()
	return socket.LocalAddr().(*net.UDPAddr).Port
}
