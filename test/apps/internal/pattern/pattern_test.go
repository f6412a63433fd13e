package pattern

import "testing"

// Known answers of XXH64 with seed 0, whole and in pieces.
func TestHash(t *testing.T) {
	answers := map[string]uint64{
		"":    0xef46db3751d8e999,
		"a":   0xd24ec4f1a98c6e5b,
		"abc": 0x44bc2cf5ad770999,
		"Nobody inspects the spammish repetition": 0xfbcea83c8a378bf1,
	}
	for text, want := range answers {
		whole, pieces := NewHash(), NewHash()
		whole.Write([]byte(text))
		for i := range text {
			pieces.Write([]byte{text[i]})
		}
		if whole.Sum() != want || pieces.Sum() != want {
			t.Errorf("%q: %016x and %016x, want %016x", text, whole.Sum(), pieces.Sum(), want)
		}
	}
}
