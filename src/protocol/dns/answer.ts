/** Answers that are made here (tunnel spec 12.6, "response format"), and what becomes of those too long for UDP. */
import { CLASS_IN, type DomainName, encodeRecord, nameRecord, RecordType, ResponseCode } from "../wire/dns.ts"
import type { DnsQuery } from "./DnsQuery.ts"

/** Of every record made here, seconds: a resource may change at any time. */
const LOCAL_TTL = 1

const HEADER_LENGTH = 12
const FIXED_RECORD_LENGTH = 10
const RESPONSE = 0x80
const OPCODE_AND_RD = 0x79
const TRUNCATED = 0x02

/**
 * Id, opcode, RD and the question as they were asked, then `records` without a change: no EDNS, no compression.
 * `count` says how many records these are.
 */
export const answer = (query: DnsQuery, responseCode: number, count = 0, records?: Uint8Array): Uint8Array => {
  const { bytes, end } = query
  const message = new Uint8Array(end + (records?.length ?? 0))
  message.set(bytes.subarray(0, end))
  message[2] = RESPONSE | (bytes[2] as number) & OPCODE_AND_RD
  message[3] = responseCode
  message.fill(0, 4, HEADER_LENGTH)
  message[5] = 1
  message[6] = count >> 8
  message[7] = count & 0xff
  if (records !== undefined) message.set(records, end)
  return message
}

export const serverFailure = (query: DnsQuery): Uint8Array => answer(query, ResponseCode.ServerFailure)

/** A or AAAA records, as the query wants; `addresses` are of that family, one behind the other. */
export const addressAnswer = (query: DnsQuery, addresses: Uint8Array): Uint8Array => {
  const { bytes, end, type } = query
  const size = type === RecordType.A ? 4 : 16
  const nameLength = end - 4 - HEADER_LENGTH
  const count = addresses.length / size
  const records = new Uint8Array(count * (nameLength + FIXED_RECORD_LENGTH + size))
  for (let i = 0, at = 0; i < count; i++) {
    records.set(bytes.subarray(HEADER_LENGTH, HEADER_LENGTH + nameLength), at)
    at += nameLength
    records[at + 1] = type
    records[at + 3] = CLASS_IN
    records[at + 7] = LOCAL_TTL
    records[at + 9] = size
    records.set(addresses.subarray(i * size, (i + 1) * size), at + FIXED_RECORD_LENGTH)
    at += FIXED_RECORD_LENGTH + size
  }
  return answer(query, ResponseCode.NoError, count, records)
}

/** The name that an address stands for. */
export const pointerAnswer = (query: DnsQuery, target: DomainName): Uint8Array => {
  const record = encodeRecord(nameRecord(query.name, RecordType.PTR, LOCAL_TTL, target))
  return record === undefined ? serverFailure(query) : answer(query, ResponseCode.NoError, 1, record)
}

/** `message` if it is short enough, else its header and question with the truncated flag (tunnel spec 12.14). */
export const truncate = (query: DnsQuery, message: Uint8Array, maxLength: number): Uint8Array => {
  if (message.length <= maxLength) return message
  const short = new Uint8Array(query.end)
  short.set(message.subarray(0, 4))
  short[2] = (message[2] as number) | TRUNCATED
  short[5] = 1
  short.set(query.bytes.subarray(HEADER_LENGTH, query.end), HEADER_LENGTH)
  return short
}
