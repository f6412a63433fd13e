// Command goclient is a client on Go's own network stack: its dialer, its resolver, its poller. It prints one JSON line.
// It is an ordinary program and must never know about the mesh.
//
//	goclient dial NETWORK HOST:PORT [--send TEXT] [--banner] [--bind IP:PORT] [--timeout MS]
//	goclient resolve NAME [--server IP:PORT] [--timeout MS]
//	goclient bulk HOST:PORT up|down|both BYTES [--seed N]
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"sort"
	"strconv"
	"syscall"
	"time"

	"sidestep.dev/testapps/internal/pattern"
)

type result map[string]interface{}

var (
	flags   = flag.NewFlagSet("goclient", flag.ExitOnError)
	send    = flags.String("send", "", "what to send before closing the write side")
	banner  = flags.Bool("banner", false, "read a line before sending")
	bind    = flags.String("bind", "", "local address")
	server  = flags.String("server", "", "DNS server instead of resolv.conf's")
	seed    = flags.Uint64("seed", 1, "which pattern to send")
	timeout = flags.Int("timeout", 10000, "milliseconds for everything but bulk")
)

func finish(out result, stage string, err error) {
	out["ok"] = err == nil
	if err != nil {
		out["stage"] = stage
		out["error"] = err.Error()
		var code syscall.Errno
		if errors.As(err, &code) {
			out["errno"] = errnoName(code)
		}
	}
	line, encodeErr := json.Marshal(out)
	if encodeErr != nil {
		fmt.Fprintln(os.Stderr, "goclient:", encodeErr)
		os.Exit(2)
	}
	fmt.Println(string(line))
	if err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

func errnoName(code syscall.Errno) string {
	names := map[syscall.Errno]string{
		syscall.ECONNREFUSED: "ECONNREFUSED", syscall.ECONNRESET: "ECONNRESET", syscall.ETIMEDOUT: "ETIMEDOUT",
		syscall.EPERM: "EPERM", syscall.EACCES: "EACCES", syscall.EHOSTUNREACH: "EHOSTUNREACH", syscall.ENETUNREACH: "ENETUNREACH",
		syscall.EPIPE: "EPIPE", syscall.EADDRNOTAVAIL: "EADDRNOTAVAIL", syscall.EADDRINUSE: "EADDRINUSE", syscall.EINVAL: "EINVAL",
	}
	if name, ok := names[code]; ok {
		return name
	}
	return "errno " + strconv.Itoa(int(code))
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: goclient dial NETWORK HOST:PORT | resolve NAME | bulk HOST:PORT up|down|both BYTES")
	fmt.Fprintln(os.Stderr, "options come last:")
	flags.PrintDefaults()
	os.Exit(2)
}

// Positional arguments come first, options after them.
func parse(want int) []string {
	if len(os.Args) < 2+want {
		usage()
	}
	// ExitOnError: a bad option ends the program here.
	_ = flags.Parse(os.Args[2+want:])
	if flags.NArg() > 0 {
		usage()
	}
	return os.Args[2 : 2+want]
}

func limit() time.Duration { return time.Duration(*timeout) * time.Millisecond }

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	switch os.Args[1] {
	case "dial":
		dial(parse(2))
	case "resolve":
		resolve(parse(1))
	case "bulk":
		bulk(parse(3))
	default:
		usage()
	}
}

func dial(args []string) {
	out := result{"command": "dial", "network": args[0], "asked": args[1]}
	dialer := net.Dialer{Timeout: limit()}
	if *bind != "" {
		local, err := net.ResolveTCPAddr(args[0], *bind)
		if err != nil {
			finish(out, "bindAddress", err)
		}
		dialer.LocalAddr = local
	}
	start := time.Now()
	conn, err := dialer.Dial(args[0], args[1])
	out["connectMs"] = float64(time.Since(start).Microseconds()) / 1000
	if err != nil {
		finish(out, "connect", err)
	}
	out["local"] = conn.LocalAddr().String()
	out["peer"] = conn.RemoteAddr().String()
	finish(out, "talk", talk(conn.(*net.TCPConn), out))
}

func talk(conn *net.TCPConn, out result) error {
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(limit())); err != nil {
		return err
	}
	reader := bufio.NewReader(conn)
	if *banner {
		line, err := reader.ReadString('\n')
		out["banner"] = line
		if err != nil {
			return err
		}
	}
	if *send == "" {
		return nil
	}
	if _, err := io.WriteString(conn, *send); err != nil {
		return err
	}
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	reply, err := io.ReadAll(reader)
	out["reply"] = string(reply)
	return err
}

func resolve(args []string) {
	out := result{"command": "resolve"}
	resolver := &net.Resolver{PreferGo: true}
	if *server != "" {
		resolver.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, network, *server)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit())
	defer cancel()
	start := time.Now()
	addresses, err := resolver.LookupHost(ctx, args[0])
	out["ms"] = float64(time.Since(start).Microseconds()) / 1000
	if addresses == nil {
		addresses = []string{}
	}
	sort.Strings(addresses)
	out["addresses"] = addresses
	var dnsErr *net.DNSError
	if errors.As(err, &dnsErr) {
		out["notFound"] = dnsErr.IsNotFound
	}
	finish(out, "lookup", err)
}

// bulk is described in test/apps/probe/bulk.c.
func bulk(args []string) {
	out := result{"command": "bulk", "direction": args[1]}
	size, err := strconv.ParseUint(args[2], 10, 62)
	if err != nil {
		usage()
	}
	var up, down uint64
	switch args[1] {
	case "up":
		up = size
	case "down":
		down = size
	case "both":
		up, down = size, size
	default:
		usage()
	}
	start := time.Now()
	plain, err := net.DialTimeout("tcp", args[0], limit())
	if err != nil {
		finish(out, "connect", err)
	}
	conn := plain.(*net.TCPConn)
	if _, err := fmt.Fprintf(conn, "%s %d %d\n", args[1], size, *seed); err != nil {
		finish(out, "header", err)
	}
	var sent pattern.Account
	var sendErr error
	sending := make(chan struct{})
	go func() {
		defer close(sending)
		sent, sendErr = pattern.Send(conn, up, *seed)
		if sendErr == nil && args[1] != "down" {
			sendErr = conn.CloseWrite()
		}
	}()
	got, err := pattern.Receive(conn, int64(down))
	<-sending
	if err == nil {
		err = sendErr
	}
	if err != nil {
		finish(out, "transfer", err)
	}
	trailer, err := io.ReadAll(conn)
	if err != nil {
		finish(out, "trailer", err)
	}
	out["sent"] = sent.Bytes
	out["received"] = got.Bytes
	out["sentHash"] = fmt.Sprintf("%016x", sent.Hash)
	out["receivedHash"] = fmt.Sprintf("%016x", got.Hash)
	out["ms"] = float64(time.Since(start).Microseconds()) / 1000
	// The server's account of both directions must be ours.
	want := fmt.Sprintf("%d %016x %d %016x\n", sent.Bytes, sent.Hash, got.Bytes, got.Hash)
	if string(trailer) != want {
		finish(out, "hash", fmt.Errorf("the server says %q, we say %q", trailer, want))
	}
	finish(out, "", nil)
}
