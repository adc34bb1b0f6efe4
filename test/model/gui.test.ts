import { assert, describe, it } from "@effect/vitest"
import * as Either from "effect/Either"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import { ClientMessage, ServiceMessage } from "../../src/model/gui.ts"

/** With the members of every object in one order. */
const normal = (value: unknown): unknown =>
  Array.isArray(value)
    ? value.map(normal)
    : typeof value === "object" && value !== null
    ? Object.fromEntries(
      Object.entries(value).sort(([a], [b]) => a < b ? -1 : 1).map(([key, each]) => [key, normal(each)])
    )
    : value
const bytes = (text: string): string => JSON.stringify(normal(JSON.parse(text)))

const fromClient: ReadonlyArray<string> = [
  `"ClearLogs"`,
  `{"Connect":{"token":"<secret>","is_internet_resource_active":false}}`,
  `"Disconnect"`,
  `{"ApplyAdvancedSettings":{"auth_url":"https://app.firezone.dev/","api_url":"wss://api.firezone.dev/","log_filter":"info"}}`,
  `{"SetInternetResourceState":true}`,
  `{"StartTelemetry":{"environment":"wss://api.firezone.dev/","release":"gui-client@1.5.17","account_slug":null}}`
]

const fromService: ReadonlyArray<string> = [
  `{"Hello":{"firezone_id":"<id>","advanced_settings":{"auth_url":"...","api_url":"...","log_filter":"info"},
 "mdm_settings":{"auth_url":null,"api_url":null,"log_filter":null,"account_slug":null,"hide_admin_portal_menu_item":null,
 "connect_on_start":null,"check_for_updates":null,"support_url":null}}}`,
  `{"ClearedLogs":{"Ok":null}}`,
  `{"ConnectResult":{"Err":"<chain>"}}`,
  `"DisconnectedGracefully"`,
  `{"OnDisconnect":{"error_msg":"<chain>","requires_sign_in":true}}`,
  `{"AllGatewaysOffline":{"resource_id":"<uuid>"}}`,
  `{"GatewayVersionMismatch":{"resource_id":"<uuid>"}}`,
  `{"OnUpdateResources":{"resources":[
  {"type":"internet","name":"Internet Resource","id":"<uuid>","sites":[{"id":"<uuid>","name":"HQ"}],"status":"Online"},
  {"type":"dns","id":"<uuid>","address":"*.corp.example","name":"Corp","address_description":null,"sites":[],"status":"Unknown"},
  {"type":"cidr","id":"<uuid>","address":"10.0.0.0/24","name":"LAN","address_description":"docs","sites":[],"status":"Offline"}],
 "connected_devices":[{"id":"<uuid>","name":"laptop","tun_ipv4":"100.64.0.7","tun_ipv6":"fd00:2021:1111::7","pools":["devs"]}]}}`,
  `{"AdvancedSettingsApplied":{"Ok":{"auth_url":"...","api_url":"...","log_filter":"debug"}}}`,
  `"TerminatingGracefully"`
]

describe("host spec 18, test 9: every example encodes and decodes byte for byte after key-order normalisation", () => {
  const client = Schema.parseJson(ClientMessage)
  const service = Schema.parseJson(ServiceMessage)

  it.each(fromClient)("to the service: %s", (text) => {
    assert.strictEqual(bytes(Schema.encodeSync(client)(Schema.decodeUnknownSync(client)(text))), bytes(text))
    assert.isTrue(Either.isLeft(Schema.decodeUnknownEither(service)(text)))
  })
  it.each(fromService)("to the GUI: %s", (text) => {
    assert.strictEqual(bytes(Schema.encodeSync(service)(Schema.decodeUnknownSync(service)(text))), bytes(text))
    assert.isTrue(Either.isLeft(Schema.decodeUnknownEither(client)(text)))
  })

  it("also what an example has no room for", () => {
    for (
      const text of [
        `{"ClearedLogs":{"Err":"x"}}`,
        `{"ConnectResult":{"Ok":null}}`,
        `{"AdvancedSettingsApplied":{"Err":"x"}}`
      ]
    ) {
      assert.strictEqual(bytes(Schema.encodeSync(service)(Schema.decodeUnknownSync(service)(text))), bytes(text))
    }
  })

  it("takes members that later versions may add, and no second variant", () => {
    const decode = Schema.decodeUnknownEither(client)
    assert.isTrue(Either.isRight(decode(`{"Connect":{"token":"t","is_internet_resource_active":true,"more":1}}`)))
    assert.isTrue(Either.isRight(decode(`{"StartTelemetry":{"environment":"e","release":"r"}}`)))
    for (
      const text of [
        `{"Connect":{"token":"t","is_internet_resource_active":true},"Disconnect":null}`,
        `{"Connect":{"token":"t"}}`,
        `{"Connect":{"token":5,"is_internet_resource_active":true}}`,
        `{"Connect":"t"}`,
        `"Connect"`,
        `{"Disconnect":null}`,
        `{"SetInternetResourceState":1}`,
        `"__proto__"`,
        `{"__proto__":{}}`,
        `{}`,
        `[]`,
        `null`,
        ``
      ]
    ) assert.isTrue(Either.isLeft(decode(text)), text)
  })

  it("hides the token from whoever prints the message", () => {
    const message = Schema.decodeUnknownSync(client)(fromClient[1])
    assert.notInclude(JSON.stringify(message), "secret")
    assert.notInclude(String(message), "secret")
    if (message._tag !== "Connect") return assert.fail("another message")
    assert.strictEqual(Redacted.value(message.value.token), "<secret>")
  })
})
