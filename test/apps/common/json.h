// One JSON value written to memory and printed as one line. Strings need not be UTF-8: bytes above 0x7e appear as
// \u00XX, so that what a peer sent can always be reported. It never reads JSON.
#ifndef SIDESTEP_TEST_JSON_H
#define SIDESTEP_TEST_JSON_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json {
  char *data;
  size_t length;
  size_t capacity;
  bool needs_comma;
};

// A key of NULL writes a bare value: the root, or an element of an array.
void json_object(struct json *json, const char *key);
void json_object_end(struct json *json);
void json_array(struct json *json, const char *key);
void json_array_end(struct json *json);
void json_text(struct json *json, const char *key, const char *text);
void json_bytes(struct json *json, const char *key, const void *bytes, size_t length);
void json_int(struct json *json, const char *key, int64_t value);
void json_number(struct json *json, const char *key, double value);
void json_bool(struct json *json, const char *key, bool value);
void json_null(struct json *json, const char *key);

// Prints the line to standard output, flushes, and frees the memory.
void json_print(struct json *json);

#endif
