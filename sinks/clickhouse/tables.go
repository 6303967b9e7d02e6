package clickhouse

import (
	"fmt"
	"slices"
	"strings"

	"github.com/counterfoil/counterfoil/schemas"
)

// tableSpec says how a table is filled from a topic's records.
type tableSpec struct {
	name string
	// state tables are ReplacingMergeTrees: rows come at least once and the highest version of a key wins. All others are logs, which
	// hold each record exactly once, with its position and write_by.
	state bool
	// reference tables take tenant and id from the record's key; a null value deletes.
	reference bool
	schema    *schemas.Schema
	columns   []columnSpec
	// own are the Int64 columns that the sink computes from the position.
	own []ownColumn
}

// columnSpec is a column that is filled from Avro.
type columnSpec struct {
	name  string
	path  string // of Avro members, joined by dots
	plain bool   // null is shown as the type's zero, so that the column can be a sorting key
}

// ownColumn is computed from where the record lies.
type ownColumn struct {
	name  string
	value func(s *SinkConfig, epoch int32, offset int64) int64
}

// Columns of position that every log table begins with.
const (
	columnTopic     = "topic"
	columnEpoch     = "epoch"
	columnPartition = "partition"
	columnOffset    = "offset"
	columnWriteBy   = "write_by"
)

var versionColumn = ownColumn{"version", func(_ *SinkConfig, epoch int32, offset int64) int64 { return schemas.Version(epoch, offset) }}

const tableDeadLetters = "dead_letters"

// tablesOf are the tables that a topic's records go to; none when nobody keeps the topic here.
func tablesOf(t schemas.Topic) []*tableSpec {
	switch t.Role {
	case schemas.RoleBatches:
		return []*tableSpec{batchesTable}
	case schemas.RoleProcessed:
		switch t.Kind {
		case schemas.KindOwnership:
			return []*tableSpec{ownershipTable, ownershipStateTable}
		case schemas.KindCustomerEvents:
			return []*tableSpec{customerEventsTable}
		case schemas.KindReferrals:
			return []*tableSpec{referralsTable}
		}
	case schemas.RoleUnprocessed:
		return []*tableSpec{unprocessedTable}
	case schemas.RoleReference:
		if spec := referenceTables[t.Name]; spec != nil {
			return []*tableSpec{spec}
		}
	case schemas.RoleDeadLetters:
		return []*tableSpec{deadLettersTable}
	}
	return nil
}

var (
	batchesTable = &tableSpec{
		name: "batches", schema: schemas.BatchHeaderSchema,
		columns: same("tenant", "key", "kind", "item_kind", "door", "key_id", "items", "ref", "accepted_at"),
		own:     []ownColumn{{"number", func(s *SinkConfig, _ int32, offset int64) int64 { return s.NumberBase + schemas.BatchNumber(offset) }}},
	}
	ownershipTable = &tableSpec{
		name: "ownership", schema: schemas.OwnershipProcessedSchema,
		columns: slices.Concat(outcomeColumns,
			same("user_key", "sku_key", "user_name", "product_sku", "time_of_approval", "source", "quantity", "previous_quantity", "version"),
			below("item.", "requested_", "has_product", "quantity", "increase_quantity_by")),
	}
	ownershipStateTable = &tableSpec{
		name: "ownership_state", state: true, schema: schemas.OwnershipProcessedSchema,
		columns: same("tenant", "user_key", "sku_key", "user_name", "product_sku", "quantity", "source", "time_of_approval", "version"),
	}
	customerEventsTable = &tableSpec{
		name: "customer_events", schema: schemas.EventProcessedSchema,
		columns: slices.Concat(outcomeColumns,
			same("kind", "number", "account_id", "account_number", "participant_id", "participant_number", "classification_id", "unit_id",
				"currency_code", "payment_medium_type_id", "payment_medium_brand_id", "invoice_id", "product_id", "line_product_ids", "kpi_ids",
				"amounts_differ"),
			below("item.account.", "given_account_", "id", "number", "name"),
			below("item.participant.", "given_participant_", "id", "number"),
			below("item.classification.", "given_classification_", "id", "name", "alternative_code"),
			below("item.unit.", "given_unit_", "id", "name", "alternative_code"),
			below("item.", "", commonColumns...),
			below("item.", "", numbered("udf_string_", 9, 16)...),
			below("item.", "", "reference_number", "payment_medium"),
			below("item.payment_medium_type.", "given_payment_medium_type_", "id", "name", "alternative_code"),
			below("item.payment_medium_brand.", "given_payment_medium_brand_", "id", "name", "alternative_code"),
			below("item.invoice.", "given_invoice_", "id", "number", "reference_number", "back_office_code"),
			below("item.products.product.", "line_given_product_", "id", "code", "alternative_code"),
			below("item.products.", "line_", "quantity", "net_amount", "vat_amount", "total_amount"),
			below("item.", "", "social_media", "profile", "action", "website", "amount"),
			below("item.product.", "given_product_", "id", "code", "alternative_code"),
			below("item.measures.kpi.", "measure_given_kpi_", "id", "name", "alternative_code"),
			below("item.measures.", "measure_", "value"),
			below("item.measures.product.", "measure_given_product_", "id", "code", "alternative_code")),
	}
	referralsTable = &tableSpec{
		name: "referrals", schema: schemas.ReferralProcessedSchema,
		columns: slices.Concat(outcomeColumns,
			same("kind", "number", "referred_id", "referred_number", "referred_by_id", "referred_by_number", "classification_id", "unit_id", "version"),
			below("item.referred.", "given_referred_", "id", "number"),
			below("item.referred_by.", "given_referred_by_", "id", "number"),
			below("item.classification.", "given_classification_", "id", "name", "alternative_code"),
			below("item.unit.", "given_unit_", "id", "name", "alternative_code"),
			below("item.", "", commonColumns...)),
	}
	unprocessedTable = &tableSpec{
		name: "unprocessed", schema: schemas.UnprocessedSchema,
		columns: slices.Concat(outcomeColumns,
			same("kind", "item_kind"),
			below("reasons.", "reason_", "code", "field", "value", "message"),
			same("format", "original")),
	}
	deadLettersTable = &tableSpec{
		name: tableDeadLetters, schema: schemas.DeadLetterSchema,
		columns: slices.Concat(
			[]columnSpec{{name: "tenant", path: "tenant", plain: true}},
			below("", "source_", "topic", "epoch", "partition", "offset"),
			same("key", "value"),
			below("headers.", "header_", "key", "value"),
			below("reason.", "reason_", "code", "field", "value", "message"),
			same("recorded_at", "at")),
	}
	referenceTables = map[string]*tableSpec{
		schemas.Accounts:            reference(schemas.Accounts, schemas.AccountSchema, "id", "number", "name", "payment_medium_types", "payment_medium_brands"),
		schemas.Participants:        reference(schemas.Participants, schemas.ParticipantSchema, "id", "number", "account_id"),
		schemas.Units:               reference(schemas.Units, schemas.UnitSchema, "id", "name", "alternative_code", "currency_id", "currency_code"),
		schemas.Classifications:     reference(schemas.Classifications, schemas.ClassificationSchema, "id", "name", "alternative_code", "kind"),
		schemas.Products:            reference(schemas.Products, schemas.ProductSchema, "id", "number", "code", "alternative_code", "description", "barcodes"),
		schemas.PaymentMediumTypes:  reference(schemas.PaymentMediumTypes, schemas.PaymentMediumTypeSchema, "id", "name", "alternative_code"),
		schemas.PaymentMediumBrands: reference(schemas.PaymentMediumBrands, schemas.PaymentMediumBrandSchema, "id", "name", "alternative_code"),
		schemas.KPIs:                reference(schemas.KPIs, schemas.KPISchema, "id", "name", "alternative_code"),
		schemas.Invoices:            reference(schemas.Invoices, schemas.InvoiceSchema, "id", "number", "reference_number", "back_office_code"),
		// Without the hash of the secret, which no analyst needs.
		schemas.APIKeys: reference(schemas.APIKeys, schemas.APIKeySchema, "id", "doors", "allowed_ips", "rate_limit", "enabled", "note", "created_at"),
	}
)

// outcomeColumns is what every outcome begins with.
var outcomeColumns = slices.Concat(
	same("tenant", "id"),
	[]columnSpec{{name: "batch", path: "batch", plain: true}},
	same("index", "attempt", "ref", "source_topic", "source_epoch", "source_partition", "source_offset", "accepted_at", "judged_at"))

// commonColumns is what customer events and referrals share.
var commonColumns = slices.Concat(
	[]string{"performed_on", "description", "external_system", "external_system_reference_number"},
	numbered("udf_string_", 1, 8), numbered("udf_float_", 1, 4), numbered("udf_date_", 1, 4))

// same makes columns that are named as their members.
func same(names ...string) []columnSpec { return below("", "", names...) }

// below makes columns from the members below a path, with a prefix to their names.
func below(path, prefix string, names ...string) []columnSpec {
	specs := make([]columnSpec, len(names))
	for i, n := range names {
		specs[i] = columnSpec{name: prefix + n, path: path + n}
	}
	return specs
}

func numbered(prefix string, from, to int) []string {
	var names []string
	for i := from; i <= to; i++ {
		names = append(names, fmt.Sprint(prefix, i))
	}
	return names
}

func reference(topic string, schema *schemas.Schema, columns ...string) *tableSpec {
	return &tableSpec{
		name: topic + "_state", state: true, reference: true, schema: schema,
		columns: same(columns...), own: []ownColumn{versionColumn},
	}
}

// allTables are the tables that the sink fills, logs first.
func allTables() []*tableSpec {
	var all []*tableSpec
	for _, t := range schemas.Topics() {
		for _, spec := range tablesOf(t) {
			if !slices.Contains(all, spec) {
				all = append(all, spec)
			}
		}
	}
	return all
}

// TenantTables names every table and view with a column tenant. An analyst's user needs a filter tenant = '…' on each of them: a row
// policy on a server, a row filter in the configuration of the embedded engine, which knows no row policies made by SQL.
func TenantTables() []string {
	var names []string
	for _, t := range allTables() {
		names = append(names, t.name)
		if t.reference {
			names = append(names, strings.TrimSuffix(t.name, "_state"))
		}
	}
	return append(names, "outcomes", "batch_status", "unprocessed_open", "unprocessed_by_reason", "ownership_current",
		"purchases_by_account", "purchase_lines", "measures")
}

// sqlColumns describes the columns of the table as SQL, for comparison with what a server has.
func (t *tableSpec) sqlColumns() (names, types []string, err error) {
	if !t.state {
		names = append(names, columnTopic, columnEpoch, columnPartition, columnOffset, columnWriteBy)
		types = append(types, "String", "Int32", "Int32", "Int64", "DateTime64(3, 'UTC')")
	}
	if t.reference {
		names = append(names, "tenant", "is_deleted")
		types = append(types, "String", "UInt8")
	}
	for _, o := range t.own {
		names = append(names, o.name)
		types = append(types, "Int64")
	}
	reader := newCompiler(t.schema.Avro())
	for _, c := range t.columns {
		kind, nullable, list, _, err := reader.resolve(c.path)
		if err != nil {
			return nil, nil, fmt.Errorf("table %s: %w", t.name, err)
		}
		typ := sqlTypes[kind]
		if nullable && !c.plain {
			typ = "Nullable(" + typ + ")"
		}
		if list {
			typ = "Array(" + typ + ")"
		}
		names = append(names, c.name)
		types = append(types, typ)
	}
	return names, types, nil
}
