// Package schemas is the contract between Counterfoil's parts and everybody who reads or writes its topics.
//
// It holds, and nothing else does:
//
//   - the Avro schemas (avro/*.avsc) and the Go types that mirror them, one field for one field (types.go, references.go);
//   - the table of topics: name, role, value schema, partitions, clean-up policy (topics.go);
//   - the envelope: what travels in Kafka headers beside the business data (envelope.go);
//   - identities of batches, items and positions, the partitioner and the case fold (ids.go), and the form of telephone numbers in which
//     they compare (phone.go);
//   - how everybody reads our topics (consume.go), and knows that ClickHouse has what lies in them (sink.go);
//   - the codec in the Confluent wire format, and the registry client behind it (codec.go, registry.go);
//   - reason codes (reasons.go).
//
// The value of a record is business data only, so that an upstream producer needs nothing but its record, its registered schema and a
// tenant header. Readers resolve any writer schema that the registry knows to the one compiled in here, so that older and newer producers
// work side by side; FULL_TRANSITIVE compatibility is checked before a schema is registered ([Registry.Register]).
//
// The package imports nothing else of Counterfoil.
package schemas
