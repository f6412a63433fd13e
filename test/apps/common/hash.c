// See hash.h. XXH64 with seed 0 as its specification describes it; little-endian machines only.
#include "hash.h"

#include <string.h>

static const uint64_t prime1 = 0x9E3779B185EBCA87u;
static const uint64_t prime2 = 0xC2B2AE3D27D4EB4Fu;
static const uint64_t prime3 = 0x165667B19E3779F9u;
static const uint64_t prime4 = 0x85EBCA77C2B2AE63u;
static const uint64_t prime5 = 0x27D4EB2F165667C5u;

static uint64_t rotate(uint64_t value, int bits) { return (value << bits) | (value >> (64 - bits)); }

static uint64_t read64(const unsigned char *bytes) {
  uint64_t value;
  memcpy(&value, bytes, sizeof value);
  return value;
}

static uint64_t mix_lane(uint64_t lane, uint64_t input) { return rotate(lane + input * prime2, 31) * prime1; }

static uint64_t merge_lane(uint64_t value, uint64_t lane) { return (value ^ mix_lane(0, lane)) * prime1 + prime4; }

void hash_start(struct hash *hash) {
  *hash = (struct hash){.lanes = {prime1 + prime2, prime2, 0, 0 - prime1}};
}

static const unsigned char *consume_block(struct hash *hash, const unsigned char *bytes) {
  for (int i = 0; i < 4; i++) hash->lanes[i] = mix_lane(hash->lanes[i], read64(bytes + 8 * i));
  return bytes + 32;
}

void hash_add(struct hash *hash, const void *data, size_t length) {
  const unsigned char *bytes = data;
  hash->total += length;
  if (hash->pending_length > 0) {
    size_t room = sizeof hash->pending - hash->pending_length;
    if (room > length) room = length;
    memcpy(hash->pending + hash->pending_length, bytes, room);
    hash->pending_length += room;
    bytes += room;
    length -= room;
    if (hash->pending_length < sizeof hash->pending) return;
    consume_block(hash, hash->pending);
    hash->pending_length = 0;
  }
  for (; length >= 32; length -= 32) bytes = consume_block(hash, bytes);
  memcpy(hash->pending, bytes, length);
  hash->pending_length = length;
}

uint64_t hash_value(const struct hash *hash) {
  uint64_t value = hash->lanes[2] + prime5;
  if (hash->total >= 32) {
    value = rotate(hash->lanes[0], 1) + rotate(hash->lanes[1], 7) + rotate(hash->lanes[2], 12) + rotate(hash->lanes[3], 18);
    for (int i = 0; i < 4; i++) value = merge_lane(value, hash->lanes[i]);
  }
  value += hash->total;
  const unsigned char *bytes = hash->pending;
  size_t left = hash->pending_length;
  for (; left >= 8; left -= 8, bytes += 8) value = rotate(value ^ mix_lane(0, read64(bytes)), 27) * prime1 + prime4;
  if (left >= 4) {
    uint32_t word;
    memcpy(&word, bytes, sizeof word);
    value = rotate(value ^ (uint64_t)word * prime1, 23) * prime2 + prime3;
    left -= 4;
    bytes += 4;
  }
  for (; left > 0; left--, bytes++) value = rotate(value ^ *bytes * prime5, 11) * prime1;
  value = (value ^ (value >> 33)) * prime2;
  value = (value ^ (value >> 29)) * prime3;
  return value ^ (value >> 32);
}

// splitmix64, by position rather than by state.
static uint64_t pattern_word(uint64_t seed, uint64_t index) {
  uint64_t value = seed + (index + 1) * 0x9E3779B97F4A7C15u;
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
  return value ^ (value >> 31);
}

void pattern_fill(void *data, size_t length, uint64_t seed, uint64_t offset) {
  unsigned char *bytes = data;
  while (length > 0) {
    const uint64_t word = pattern_word(seed, offset / 8);
    const size_t skip = offset % 8;
    size_t count = 8 - skip;
    if (count > length) count = length;
    if (count == 8) {
      memcpy(bytes, &word, 8);
    } else {
      memcpy(bytes, (const unsigned char *)&word + skip, count);
    }
    bytes += count;
    offset += count;
    length -= count;
  }
}
