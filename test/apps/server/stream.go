package main

// The manners of TCP ports. Each handler returns how many bytes it read and the error that ended it, if any.

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"sidestep.dev/testapps/internal/pattern"
)

const (
	slowBytesPerSecond = 1024
	smallBuffer        = 4096
)

type closedEvent struct {
	Event  string `json:"event"`
	Mode   string `json:"mode"`
	Client string `json:"client"`
	Local  string `json:"local"`
	Bytes  uint64 `json:"bytes"`
	End    string `json:"end"`
}

func acceptAll(mode string, listener net.Listener, size uint64, logs bool) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			// EMFILE and its like pass when others close; a spin must not make it worse.
			fmt.Fprintf(os.Stderr, "server: accept: %v\n", err)
			time.Sleep(10 * time.Millisecond)
			continue
		}
		go serve(mode, conn.(*net.TCPConn), size, logs)
	}
}

func serve(mode string, conn *net.TCPConn, size uint64, logs bool) {
	count, err := handle(mode, conn, size)
	conn.Close()
	if logs {
		emit(closedEvent{"closed", mode, conn.RemoteAddr().String(), conn.LocalAddr().String(), count, endOf(err)})
	}
}

// endOf names what ended a connection: "eof" or an errno.
func endOf(err error) string {
	var code syscall.Errno
	switch {
	case err == nil || err == io.EOF:
		return "eof"
	case errors.As(err, &code) && code == syscall.ECONNRESET:
		return "ECONNRESET"
	case errors.As(err, &code) && code == syscall.EPIPE:
		return "EPIPE"
	default:
		return err.Error()
	}
}

func handle(mode string, conn *net.TCPConn, size uint64) (uint64, error) {
	switch mode {
	case "echo":
		return echo(conn)
	case "banner":
		if _, err := fmt.Fprintf(conn, "hello %s at %s\n", conn.RemoteAddr(), conn.LocalAddr()); err != nil {
			return 0, err
		}
		return echo(conn)
	case "hash":
		account, err := pattern.Receive(conn, -1)
		if err == nil {
			_, err = fmt.Fprintf(conn, "%d %016x\n", account.Bytes, account.Hash)
		}
		return account.Bytes, err
	case "halfclose":
		account, err := pattern.Receive(conn, -1)
		if err == nil {
			time.Sleep(200 * time.Millisecond)
			_, err = fmt.Fprintf(conn, "after eof: %d\n", account.Bytes)
		}
		return account.Bytes, err
	case "source":
		_, err := pattern.Send(conn, size, 1)
		return 0, err
	case "bulk":
		return bulk(conn)
	case "reset":
		n, err := conn.Read(make([]byte, 1))
		_ = conn.SetLinger(0)
		return uint64(n), err
	case "reset-accept":
		return 0, conn.SetLinger(0)
	case "slow":
		return slow(conn)
	case "stall":
		select {}
	default:
		return discard(conn)
	}
}

// echo begins with a small buffer, so that thousands of idle connections stay cheap, and grows when one is busy.
func echo(conn net.Conn) (uint64, error) {
	buffer := make([]byte, 1024)
	var count uint64
	for {
		n, err := conn.Read(buffer)
		count += uint64(n)
		if n > 0 {
			if _, writeErr := conn.Write(buffer[:n]); writeErr != nil {
				return count, writeErr
			}
		}
		if err != nil {
			return count, err
		}
		if n == len(buffer) && n < pattern.ChunkSize {
			buffer = make([]byte, 8*n)
		}
	}
}

func discard(conn net.Conn) (uint64, error) {
	buffer := make([]byte, 512)
	var count uint64
	for {
		n, err := conn.Read(buffer)
		count += uint64(n)
		if err != nil {
			return count, err
		}
	}
}

func slow(conn *net.TCPConn) (uint64, error) {
	if err := conn.SetReadBuffer(smallBuffer); err != nil {
		return 0, err
	}
	buffer := make([]byte, slowBytesPerSecond/8)
	var count uint64
	for {
		n, err := conn.Read(buffer)
		count += uint64(n)
		if err != nil {
			return count, err
		}
		time.Sleep(time.Second / 8)
	}
}

// bulk is described in test/apps/probe/bulk.c.
func bulk(conn *net.TCPConn) (uint64, error) {
	reader := bufio.NewReaderSize(conn, 64)
	line, err := reader.ReadString('\n')
	if err != nil {
		return 0, err
	}
	var direction string
	var size, seed uint64
	if _, err := fmt.Sscanf(line, "%s %d %d", &direction, &size, &seed); err != nil {
		return 0, fmt.Errorf("bad bulk header %q", strings.TrimSpace(line))
	}
	var got, sent pattern.Account
	var sendErr error
	sending := make(chan struct{})
	go func() {
		defer close(sending)
		amount := size
		if direction == "up" {
			amount = 0
		}
		sent, sendErr = pattern.Send(conn, amount, ^seed)
	}()
	want := int64(-1)
	if direction == "down" {
		want = 0
	}
	got, err = pattern.Receive(reader, want)
	<-sending
	if err == nil {
		err = sendErr
	}
	if err == nil {
		_, err = fmt.Fprintf(conn, "%d %016x %d %016x\n", got.Bytes, got.Hash, sent.Bytes, sent.Hash)
	}
	return got.Bytes, err
}
