// Package pattern makes the bytes that transfers carry and the hash that both ends compare: the same stream and the
// same XXH64 as test/apps/common/hash.c.
package pattern

import (
	"encoding/binary"
	"math/bits"
)

const (
	prime1 uint64 = 0x9E3779B185EBCA87
	prime2 uint64 = 0xC2B2AE3D27D4EB4F
	prime3 uint64 = 0x165667B19E3779F9
	prime4 uint64 = 0x85EBCA77C2B2AE63
	prime5 uint64 = 0x27D4EB2F165667C5
)

// Hash is XXH64 with seed 0. Use NewHash.
type Hash struct {
	lanes   [4]uint64
	total   uint64
	pending []byte
}

// NewHash returns a hash of nothing yet.
func NewHash() *Hash {
	// prime1+prime2 and -prime1, modulo 2^64.
	return &Hash{lanes: [4]uint64{0x60EA27EEADC0B5D6, prime2, 0, 0x61C8864E7A143579}, pending: make([]byte, 0, 32)}
}

func mixLane(lane, input uint64) uint64 {
	return bits.RotateLeft64(lane+input*prime2, 31) * prime1
}

func mergeLane(value, lane uint64) uint64 {
	return (value^mixLane(0, lane))*prime1 + prime4
}

func (h *Hash) block(b []byte) {
	for i := range h.lanes {
		h.lanes[i] = mixLane(h.lanes[i], binary.LittleEndian.Uint64(b[8*i:]))
	}
}

// Write adds bytes; it never fails.
func (h *Hash) Write(b []byte) (int, error) {
	length := len(b)
	h.total += uint64(length)
	if len(h.pending) > 0 {
		room := 32 - len(h.pending)
		if room > len(b) {
			room = len(b)
		}
		h.pending = append(h.pending, b[:room]...)
		b = b[room:]
		if len(h.pending) < 32 {
			return length, nil
		}
		h.block(h.pending)
		h.pending = h.pending[:0]
	}
	for ; len(b) >= 32; b = b[32:] {
		h.block(b)
	}
	h.pending = append(h.pending, b...)
	return length, nil
}

// Sum is the hash of everything written so far.
func (h *Hash) Sum() uint64 {
	value := h.lanes[2] + prime5
	if h.total >= 32 {
		value = bits.RotateLeft64(h.lanes[0], 1) + bits.RotateLeft64(h.lanes[1], 7) +
			bits.RotateLeft64(h.lanes[2], 12) + bits.RotateLeft64(h.lanes[3], 18)
		for _, lane := range h.lanes {
			value = mergeLane(value, lane)
		}
	}
	value += h.total
	b := h.pending
	for ; len(b) >= 8; b = b[8:] {
		value = bits.RotateLeft64(value^mixLane(0, binary.LittleEndian.Uint64(b)), 27)*prime1 + prime4
	}
	if len(b) >= 4 {
		value = bits.RotateLeft64(value^uint64(binary.LittleEndian.Uint32(b))*prime1, 23)*prime2 + prime3
		b = b[4:]
	}
	for _, c := range b {
		value = bits.RotateLeft64(value^uint64(c)*prime5, 11) * prime1
	}
	value = (value ^ value>>33) * prime2
	value = (value ^ value>>29) * prime3
	return value ^ value>>32
}

func word(seed, index uint64) uint64 {
	value := seed + (index+1)*0x9E3779B97F4A7C15
	value = (value ^ value>>30) * 0xBF58476D1CE4E5B9
	value = (value ^ value>>27) * 0x94D049BB133111EB
	return value ^ value>>31
}

// Fill writes the bytes of seed's stream that begin at offset, which must be a multiple of 8.
func Fill(b []byte, seed, offset uint64) {
	index := offset / 8
	for ; len(b) >= 8; b = b[8:] {
		binary.LittleEndian.PutUint64(b, word(seed, index))
		index++
	}
	var last [8]byte
	binary.LittleEndian.PutUint64(last[:], word(seed, index))
	copy(b, last[:])
}
