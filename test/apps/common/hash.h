// The bytes that transfers carry and the hash that both ends compare. The pattern is a function of seed and offset, so
// a receiver can name the first wrong byte; the hash is XXH64, fast enough not to be what a test measures.
#ifndef SIDESTEP_TEST_HASH_H
#define SIDESTEP_TEST_HASH_H
#include <stddef.h>
#include <stdint.h>

struct hash {
  uint64_t lanes[4];
  uint64_t total;
  unsigned char pending[32];
  size_t pending_length;
};

void hash_start(struct hash *hash);
void hash_add(struct hash *hash, const void *bytes, size_t length);
// The hash of everything added so far; more may be added afterwards.
uint64_t hash_value(const struct hash *hash);

// Writes `length` bytes of the stream that belongs to `seed`, beginning at `offset` of that stream.
void pattern_fill(void *bytes, size_t length, uint64_t seed, uint64_t offset);

#endif
