package main

// A DNS server with a fixed table, on UDP and TCP. Replies leave from the address that was asked: every address has a
// socket of its own. The name "whoami.test" is answered with the asker's own address.

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
)

const (
	typeA         = 1
	typeAAAA      = 28
	typeOPT       = 41
	classIN       = 1
	rcodeNXDomain = 3
	rcodeFormat   = 1
	whoami        = "whoami.test"
	ttlSeconds    = 5
	plainUDPLimit = 512
)

type records map[string][]net.IP

type questionEvent struct {
	Event    string `json:"event"`
	Protocol string `json:"protocol"`
	Name     string `json:"name"`
	Type     uint16 `json:"type"`
	Client   string `json:"client"`
	Local    string `json:"local"`
}

func parseRecords(list []string) records {
	table := records{}
	for _, entry := range list {
		parts := strings.SplitN(entry, "=", 2)
		if len(parts) != 2 {
			fail("--record takes NAME=IP, not %q", entry)
		}
		name := strings.ToLower(strings.TrimSuffix(parts[0], "."))
		for _, text := range strings.Split(parts[1], ",") {
			ip := net.ParseIP(text)
			if ip == nil {
				fail("--record %s: %q is not an address", parts[0], text)
			}
			table[name] = append(table[name], ip)
		}
	}
	return table
}

// serveDNS listens on IP:PORT, or on every local address if only a port is given. Returns the port.
func serveDNS(address string, table records, logs bool) int {
	if strings.Contains(address, ":") {
		return serveDNSOn(address, table, logs)
	}
	port := address
	for _, ip := range localAddresses() {
		port = strconv.Itoa(serveDNSOn(net.JoinHostPort(ip, port), table, logs))
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		fail("--dns takes PORT or IP:PORT, not %q", address)
	}
	return number
}

func localAddresses() []string {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		fail("%v", err)
	}
	var list []string
	for _, address := range addresses {
		if prefix, ok := address.(*net.IPNet); ok && !prefix.IP.IsLinkLocalUnicast() {
			list = append(list, prefix.IP.String())
		}
	}
	return list
}

func serveDNSOn(address string, table records, logs bool) int {
	socket, err := net.ListenPacket("udp", address)
	if err != nil {
		fail("%v", err)
	}
	listener, err := net.Listen("tcp", socket.LocalAddr().String())
	if err != nil {
		fail("%v", err)
	}
	go answerUDP(socket, table, logs)
	go answerTCP(listener, table, logs)
	return socket.LocalAddr().(*net.UDPAddr).Port
}

func answerUDP(socket net.PacketConn, table records, logs bool) {
	buffer := make([]byte, 65536)
	for {
		n, from, err := socket.ReadFrom(buffer)
		if err != nil {
			// An ICMP error of an earlier reply; the socket is still good.
			continue
		}
		asker := from.(*net.UDPAddr)
		reply := answer(buffer[:n], table, asker.IP, "udp", from, socket.LocalAddr(), logs)
		if reply != nil {
			// A client that left already is not this server's concern.
			_, _ = socket.WriteTo(reply, from)
		}
	}
}

func answerTCP(listener net.Listener, table records, logs bool) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			fmt.Fprintf(os.Stderr, "server: dns accept: %v\n", err)
			return
		}
		go func() {
			defer conn.Close()
			for {
				var length [2]byte
				if _, err := io.ReadFull(conn, length[:]); err != nil {
					return
				}
				query := make([]byte, binary.BigEndian.Uint16(length[:]))
				if _, err := io.ReadFull(conn, query); err != nil {
					return
				}
				reply := answer(query, table, conn.RemoteAddr().(*net.TCPAddr).IP, "tcp", conn.RemoteAddr(), conn.LocalAddr(), logs)
				if reply == nil {
					return
				}
				binary.BigEndian.PutUint16(length[:], uint16(len(reply)))
				if _, err := conn.Write(append(length[:], reply...)); err != nil {
					return
				}
			}
		}()
	}
}

// question is what a query asks; end is where its question section ends, limit how large a UDP reply may be.
type question struct {
	name  string
	kind  uint16
	end   int
	limit int
}

func parseQuestion(query []byte) (question, bool) {
	asked := question{limit: plainUDPLimit}
	if len(query) < 12 || binary.BigEndian.Uint16(query[4:]) != 1 {
		return asked, false
	}
	var labels []string
	at := 12
	for {
		if at >= len(query) {
			return asked, false
		}
		size := int(query[at])
		at++
		if size == 0 {
			break
		}
		if size > 63 || at+size > len(query) {
			return asked, false
		}
		labels = append(labels, strings.ToLower(string(query[at:at+size])))
		at += size
	}
	if at+4 > len(query) {
		return asked, false
	}
	asked.name = strings.Join(labels, ".")
	asked.kind = binary.BigEndian.Uint16(query[at:])
	asked.end = at + 4
	// The first additional record, if it is EDNS: root name, type, then the size that the client can take.
	if rest := query[asked.end:]; len(rest) >= 5 && rest[0] == 0 && binary.BigEndian.Uint16(rest[1:]) == typeOPT {
		asked.limit = int(binary.BigEndian.Uint16(rest[3:]))
	}
	return asked, true
}

// answer returns the reply, or nil for what is not even a header.
func answer(query []byte, table records, asker net.IP, protocol string, client, local net.Addr, logs bool) []byte {
	if len(query) < 12 {
		return nil
	}
	asked, ok := parseQuestion(query)
	if !ok {
		reply := make([]byte, 12)
		copy(reply, query[:2])
		reply[2], reply[3] = 0x80, rcodeFormat
		return reply
	}
	if logs {
		emit(questionEvent{"question", protocol, asked.name, asked.kind, client.String(), local.String()})
	}
	ips, known := table[asked.name]
	if asked.name == whoami {
		ips, known = []net.IP{asker}, true
	}
	reply := append([]byte{}, query[:asked.end]...)
	// Answer, authoritative, recursion desired as asked and available.
	reply[2] = 0x84 | query[2]&1
	reply[3] = 0x80
	for i := 6; i < 12; i++ {
		reply[i] = 0
	}
	if !known {
		reply[3] |= rcodeNXDomain
		return reply
	}
	count := 0
	for _, ip := range ips {
		data := []byte(ip.To4())
		kind := uint16(typeA)
		if data == nil {
			data, kind = ip.To16(), typeAAAA
		}
		if kind != asked.kind {
			continue
		}
		if protocol == "udp" && len(reply)+12+len(data) > asked.limit {
			reply[2] |= 2
			break
		}
		reply = append(reply, 0xc0, 12, byte(kind>>8), byte(kind), 0, classIN, 0, 0, 0, ttlSeconds, 0, byte(len(data)))
		reply = append(reply, data...)
		count++
	}
	binary.BigEndian.PutUint16(reply[6:], uint16(count))
	return reply
}
