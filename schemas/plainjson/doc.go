// Package plainjson is the form in which people write and read records without Avro's own JSON: counterfoil send and /v1 take it, counterfoil
// tail prints it, and what is printed can be sent again. A [Codec] is made for one schema, which may be one that only the registry knows.
//
//	null, boolean, string, enum    as they are
//	int, long                      a whole number
//	float, double                  a number, or one of the strings NaN, Infinity, -Infinity
//	bytes, fixed                   a string in base64
//	decimal                        a string or number, never through a float: its text is its value (printed as a string, which every tool keeps)
//	date                           "2016-06-22"
//	timestamp                      RFC 3339; without a zone it is UTC. A number counts the schema's units (milliseconds) since 1970
//	array, map, record             array, object, object; a member that is left out has its default, or null where it may be null
//	nullable                       the value or null
//	other unions                   {"<name of the branch>": value}, or null
//
// What does not fit is refused, never rounded or cut: [Codec.Append] collects all defects of a record, each with the path of its field, the
// value and the rule. Instants and days lie between 1900-01-01 and 2261-12-31.
//
// Tables (CSV) are the same records in cells: [Codec.Columns] finds out what the columns mean, [Columns.Object] makes an [Object] of a row.
//
// goavro encodes and decodes, without its logical types: they round a decimal that does not fit its schema, where we refuse it by name.
package plainjson
