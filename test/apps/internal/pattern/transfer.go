package pattern

import (
	"io"
)

// ChunkSize is how much is made, written and read at a time.
const ChunkSize = 256 * 1024

// Account says how many bytes went one way, and their hash.
type Account struct {
	Bytes uint64
	Hash  uint64
}

// Send writes the first size bytes of seed's stream.
func Send(to io.Writer, size, seed uint64) (Account, error) {
	hash := NewHash()
	buffer := make([]byte, ChunkSize)
	var sent uint64
	for sent < size {
		chunk := buffer
		if size-sent < ChunkSize {
			chunk = buffer[:size-sent]
		}
		Fill(chunk, seed, sent)
		hash.Write(chunk)
		n, err := to.Write(chunk)
		sent += uint64(n)
		if err != nil {
			return Account{sent, hash.Sum()}, err
		}
	}
	return Account{sent, hash.Sum()}, nil
}

// Receive reads until end of file, or until size bytes have come if size is not negative.
func Receive(from io.Reader, size int64) (Account, error) {
	hash := NewHash()
	buffer := make([]byte, ChunkSize)
	var got uint64
	for size < 0 || got < uint64(size) {
		chunk := buffer
		if size >= 0 && uint64(size)-got < ChunkSize {
			chunk = buffer[:uint64(size)-got]
		}
		n, err := from.Read(chunk)
		hash.Write(chunk[:n])
		got += uint64(n)
		if err == io.EOF && size < 0 {
			break
		}
		if err != nil {
			return Account{got, hash.Sum()}, err
		}
	}
	return Account{got, hash.Sum()}, nil
}
