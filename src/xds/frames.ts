// Delta responses as bytes. The server encodes each resource once and puts the same bytes into every node's push; the client
// finds where the resources are in one cheap pass and decodes them in slices, so that a push of the whole mesh does not
// hold up the connections that the same thread carries.
import { create, fromBinary, toBinary } from '@bufbuild/protobuf'
import { BinaryReader, BinaryWriter, WireType } from '@bufbuild/protobuf/wire'
import { DeltaDiscoveryResponseSchema, ResourceSchema } from '../proto/discovery_pb.ts'

/** A resource as it is kept: content undecoded. */
export interface RawResource {
  readonly name: string
  readonly version: string
  readonly aliases: readonly string[]
  /** The bytes of the istio message. */
  readonly value: Uint8Array
}

const resourcesField = 2

// Keeps its buffer from one resource to the next.
const writer = new BinaryWriter()

/** One resource as a part of a response: tag, length, and an envoy.service.discovery.v3.Resource written field by field. */
export function encodeFrame({ name, version, aliases, value }: RawResource, typeUrl: string): Uint8Array {
  writer.tag(resourcesField, WireType.LengthDelimited).fork()
  writer.tag(1, WireType.LengthDelimited).string(version)
  writer.tag(2, WireType.LengthDelimited).fork()
  writer.tag(1, WireType.LengthDelimited).string(typeUrl).tag(2, WireType.LengthDelimited).bytes(value).join()
  writer.tag(3, WireType.LengthDelimited).string(name)
  for (const alias of aliases) writer.tag(4, WireType.LengthDelimited).string(alias)
  return writer.join().finish()
}

export interface ResponseHead {
  readonly typeUrl: string
  readonly nonce: string
  readonly systemVersion: string
  readonly removed: readonly string[]
}

/** A whole response from frames of `encodeFrame`. */
export function encodeResponse({ typeUrl, nonce, systemVersion, removed }: ResponseHead, frames: readonly Uint8Array[]): Buffer {
  const head = create(DeltaDiscoveryResponseSchema, { typeUrl, nonce, systemVersionInfo: systemVersion, removedResources: [...removed] })
  return Buffer.concat([toBinary(DeltaDiscoveryResponseSchema, head), ...frames])
}

export interface ParsedResponse {
  readonly typeUrl: string
  readonly nonce: string
  readonly removed: readonly string[]
  /** Undecoded resources, for `decodeFrame`; views of the response. */
  readonly frames: readonly Uint8Array[]
}

/** Throws on bytes that are no protobuf message. */
export function parseResponse(bytes: Uint8Array): ParsedResponse {
  const reader = new BinaryReader(bytes)
  const removed: string[] = []
  const frames: Uint8Array[] = []
  let typeUrl = ''
  let nonce = ''
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag()
    if (wireType !== WireType.LengthDelimited) {
      reader.skip(wireType, field)
      continue
    }
    switch (field) {
      case resourcesField:
        frames.push(reader.bytes())
        break
      case 4:
        typeUrl = reader.string()
        break
      case 5:
        nonce = reader.string()
        break
      case 6:
        removed.push(reader.string())
        break
      default:
        reader.skip(wireType, field)
    }
  }
  return { typeUrl, nonce, removed, frames }
}

/** The resource of a frame with its content's type; the content is a copy, so that it does not hold the whole response. */
export function decodeFrame(frame: Uint8Array): RawResource & { readonly typeUrl: string } {
  const { name, version, aliases, resource } = fromBinary(ResourceSchema, frame)
  return { name, version, aliases, typeUrl: resource?.typeUrl ?? '', value: Buffer.from(resource?.value ?? []) }
}
