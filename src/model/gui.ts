/**
 * What a GUI and the tunnel service say to each other (host spec section 7.3; docs/tunnel-service.md). JSON, with variants
 * tagged from outside: one without data is its name, any other an object whose only member has its name.
 */
import * as Schema from "effect/Schema"

/** A variant without data. */
const bare = <Name extends string>(name: Name) =>
  Schema.transform(Schema.Literal(name), Schema.Struct({ _tag: Schema.Literal(name) }), {
    strict: true,
    decode: () => ({ _tag: name }),
    encode: () => name
  })

/** A variant with data: no other member beside it; within it unknown ones are ignored. */
const tagged = <Name extends string, A, I>(name: Name, data: Schema.Schema<A, I>) => {
  // Schema cannot type a struct whose only member has a computed name; tests hold every message against the examples.
  type Outside<T> = { readonly [key in Name]: T }
  const value = data.annotations({ parseOptions: { onExcessProperty: "ignore" } })
  return Schema.transform(
    Schema.Struct({ [name]: value }).annotations({ parseOptions: { onExcessProperty: "error" } }),
    Schema.Struct({ _tag: Schema.Literal(name), value: Schema.typeSchema(data) }),
    {
      strict: false,
      decode: (outside) => ({ _tag: name, value: (outside as Outside<A>)[name] }),
      encode: ({ value }: { readonly value: A }) => ({ [name]: value })
    }
  ) as unknown as Schema.Schema<{ readonly _tag: Name; readonly value: A }, Outside<I>>
}

/** How something went; what failed is told to a person. */
const result = <A, I>(value: Schema.Schema<A, I>) =>
  Schema.Union(
    Schema.Struct({ Ok: value }).annotations({ parseOptions: { onExcessProperty: "error" } }),
    Schema.Struct({ Err: Schema.String }).annotations({ parseOptions: { onExcessProperty: "error" } })
  )
const done = result(Schema.Null)

/** What a person may change about the service; kept by it. As given: who uses it checks it. */
export const AdvancedSettings = Schema.Struct({
  auth_url: Schema.String,
  api_url: Schema.String,
  log_filter: Schema.String
})
export type AdvancedSettings = typeof AdvancedSettings.Type

const orNull = <A, I>(schema: Schema.Schema<A, I>) => Schema.NullOr(schema)
/** What the machine's administrator has decided; on Linux there is no place for it. */
const MdmSettings = Schema.Struct({
  auth_url: orNull(Schema.String),
  api_url: orNull(Schema.String),
  log_filter: orNull(Schema.String),
  account_slug: orNull(Schema.String),
  hide_admin_portal_menu_item: orNull(Schema.Boolean),
  connect_on_start: orNull(Schema.Boolean),
  check_for_updates: orNull(Schema.Boolean),
  support_url: orNull(Schema.String)
})
export const noMdmSettings: typeof MdmSettings.Type = {
  auth_url: null,
  api_url: null,
  log_filter: null,
  account_slug: null,
  hide_admin_portal_menu_item: null,
  connect_on_start: null,
  check_for_updates: null,
  support_url: null
}

export const ClientMessage = Schema.Union(
  bare("ClearLogs"),
  tagged(
    "Connect",
    Schema.Struct({ token: Schema.Redacted(Schema.String), is_internet_resource_active: Schema.Boolean })
  ),
  bare("Disconnect"),
  tagged("ApplyAdvancedSettings", AdvancedSettings),
  tagged("SetInternetResourceState", Schema.Boolean),
  tagged(
    "StartTelemetry",
    Schema.Struct({
      environment: Schema.String,
      release: Schema.String,
      account_slug: Schema.optional(orNull(Schema.String))
    })
  )
)
export type ClientMessage = typeof ClientMessage.Type

const Site = Schema.Struct({ id: Schema.String, name: Schema.String })
const status = Schema.Literal("Unknown", "Online", "Offline")
const place = {
  id: Schema.String,
  address: Schema.String,
  name: Schema.String,
  address_description: orNull(Schema.String),
  sites: Schema.Array(Site),
  status
}
/** The Internet first, then by name and id. */
export const GuiResource = Schema.Union(
  Schema.Struct({
    type: Schema.Literal("internet"),
    name: Schema.String,
    id: Schema.String,
    sites: Schema.Array(Site),
    status
  }),
  Schema.Struct({ type: Schema.Literal("dns"), ...place }),
  Schema.Struct({ type: Schema.Literal("cidr"), ...place })
)
export type GuiResource = typeof GuiResource.Type

/** Another client that is connected to this one. */
export const ConnectedDevice = Schema.Struct({
  id: Schema.String,
  name: Schema.String,
  tun_ipv4: Schema.String,
  tun_ipv6: Schema.String,
  pools: Schema.Array(Schema.String)
})
export type ConnectedDevice = typeof ConnectedDevice.Type

const ofResource = Schema.Struct({ resource_id: Schema.String })

export const ServiceMessage = Schema.Union(
  tagged(
    "Hello",
    Schema.Struct({ firezone_id: Schema.String, advanced_settings: AdvancedSettings, mdm_settings: MdmSettings })
  ),
  tagged("ClearedLogs", done),
  tagged("ConnectResult", done),
  bare("DisconnectedGracefully"),
  tagged("OnDisconnect", Schema.Struct({ error_msg: Schema.String, requires_sign_in: Schema.Boolean })),
  tagged("AllGatewaysOffline", ofResource),
  tagged("GatewayVersionMismatch", ofResource),
  tagged(
    "OnUpdateResources",
    Schema.Struct({ resources: Schema.Array(GuiResource), connected_devices: Schema.Array(ConnectedDevice) })
  ),
  tagged("AdvancedSettingsApplied", result(AdvancedSettings)),
  bare("TerminatingGracefully")
)
export type ServiceMessage = typeof ServiceMessage.Type
