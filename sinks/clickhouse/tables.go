package clickhouse

import (
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

// tableSpec says how a table is filled.
type tableSpec struct {
	name string
	// state tables are ReplacingMergeTrees: rows come at least once and the highest version of a key wins. All others are logs, which
	// hold each record exactly once, with its position and write_by.
	state bool
	// key, of tables of references and facts, names the columns that make up a record's own id, in its order. Tenant and own id come from
	// the record's key, where the value must say the same, and a null value deletes.
	key []string
	// spread: the records of one id may come by any partition, so that the id and not the partition decides where on a cluster they lie.
	spread bool
	// followers are the tables that hold the same in another order, see moves.go.
	followers []follower
	// own are the Int64 columns that the sink computes from where and when the record lies.
	own     []ownColumn
	sources []source
}

// source is how records of one schema fill a table. Most tables have one source. Where they have several, a column that one of them lacks
// is null in its rows.
type source struct {
	topic   string // the only topic with these records, where the table has several sources
	schema  *schemas.Schema
	columns []columnSpec
	// needs names the column without which a record has no row in this table. That does not touch the question of a take-over: below the
	// highest offset that the table has, whatever has a row has it.
	needs string
}

// columnSpec is a column that is filled from Avro.
type columnSpec struct {
	name  string
	path  string // of Avro members, joined by dots
	plain bool   // null is shown as the type's zero, so that the column can be a sorting key
	// text, of a String: what the column says of the member's text; an empty result counts as null. Made of a part of the record's own id, it
	// is in the row of a deletion as well, so that a sorting key may begin with it.
	text func(string) string
}

// ownColumn is computed from where and when the record lies.
type ownColumn struct {
	name  string
	value func(s *SinkConfig, epoch int32, rec *kgo.Record) int64
}

// Columns of position that every log table begins with.
const (
	columnTopic     = "topic"
	columnEpoch     = "epoch"
	columnPartition = "partition"
	columnOffset    = "offset"
	columnWriteBy   = "write_by"
)

// Versions: of references, which have one partition, and of facts, which any partition may bring.
var (
	versionColumn     = ownColumn{"version", func(_ *SinkConfig, epoch int32, rec *kgo.Record) int64 { return schemas.Version(epoch, rec.Offset) }}
	factVersionColumn = ownColumn{"version", func(_ *SinkConfig, _ int32, rec *kgo.Record) int64 {
		return schemas.FactVersion(rec.Timestamp, rec.Offset)
	}}
)

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
		case schemas.KindSales:
			return []*tableSpec{salesTable}
		case schemas.KindTransactions:
			return []*tableSpec{transactionsTable}
		case schemas.References:
			return []*tableSpec{referencesTable}
		}
	case schemas.RoleUnprocessed:
		if t.Kind == schemas.KindSales {
			return []*tableSpec{unprocessedTable, salesTable}
		}
		return []*tableSpec{unprocessedTable}
	case schemas.RoleReference:
		if spec := referenceTables[t.Name]; spec != nil {
			return []*tableSpec{spec}
		}
	case schemas.RoleFact:
		return factTables[t.Name]
	case schemas.RoleDeadLetters:
		return []*tableSpec{deadLettersTable}
	}
	return nil
}

var (
	batchesTable = &tableSpec{
		name:    "batches",
		sources: of(schemas.BatchHeaderSchema, same("tenant", "key", "kind", "item_kind", "door", "key_id", "items", "ref", "accepted_at", "lookback")),
		own: []ownColumn{{"number", func(s *SinkConfig, _ int32, rec *kgo.Record) int64 {
			return s.NumberBase + schemas.BatchNumber(rec.Offset)
		}}},
	}
	ownershipTable = &tableSpec{
		name: "ownership",
		sources: of(schemas.OwnershipProcessedSchema,
			outcomeColumns,
			same("user_key", "sku_key", "user_name", "product_sku", "time_of_approval", "source", "quantity", "previous_quantity", "version"),
			below("item.", "requested_", "has_product", "quantity", "increase_quantity_by"),
		),
	}
	ownershipStateTable = &tableSpec{
		name: "ownership_state", state: true,
		sources: of(schemas.OwnershipProcessedSchema,
			same("tenant", "user_key", "sku_key", "user_name", "product_sku", "quantity", "source", "time_of_approval", "version")),
	}
	customerEventsTable = &tableSpec{
		name: "customer_events",
		sources: of(schemas.EventProcessedSchema,
			outcomeColumns,
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
			below("item.measures.product.", "measure_given_product_", "id", "code", "alternative_code"),
		),
	}
	referralsTable = &tableSpec{
		name: "referrals",
		sources: of(schemas.ReferralProcessedSchema,
			outcomeColumns,
			same("kind", "number", "referred_id", "referred_number", "referred_by_id", "referred_by_number", "classification_id", "unit_id", "version"),
			below("item.referred.", "given_referred_", "id", "number"),
			below("item.referred_by.", "given_referred_by_", "id", "number"),
			below("item.classification.", "given_classification_", "id", "name", "alternative_code"),
			below("item.unit.", "given_unit_", "id", "name", "alternative_code"),
			below("item.", "", commonColumns...),
		),
	}
	salesTable = &tableSpec{
		name: "sales",
		sources: []source{
			{topic: schemas.ProcessedTopic(schemas.KindSales), schema: schemas.SaleProcessedSchema, columns: slices.Concat(outcomeColumns,
				same("sale_key", "version", "rule", "call_id", "call_started_at", "call_mhid", "call_caller_number", "campaign", "source", "medium", "keyword"),
				saleColumns("item."))},
			{topic: schemas.UnprocessedTopic(schemas.KindSales), schema: schemas.UnprocessedSchema, needs: "sale_key", columns: slices.Concat(outcomeColumns,
				[]columnSpec{{name: "sale_key", path: "sale.sale_key", plain: true}, {name: "version", path: "sale.version", plain: true}},
				below("sale.candidates.", "candidate_", "call_id", "started_at", "rule", "ruled_out"),
				saleColumns("sale.item."))},
		},
	}
	transactionsTable = &tableSpec{
		name: "transactions",
		sources: of(schemas.TransactionProcessedSchema,
			outcomeColumns,
			below("item.", "", "bee_number_customer", "transaction_code", "transaction_bids_code", "transaction_amount", "transaction_bill_seq",
				"transaction_time", "transaction_id", "campaign", "order_number", "invoice_number", "retail_sales_amount", "federal_tax_amount_1",
				"federal_tax_amount_2", "local_tax_amount", "payment_amount", "customer_price", "free_amount", "bonus_amount",
				"discount_percentage", "customer_count", "price_promotion_code", "account_type", "state", "tax_area", "tax_rate",
				"tax_indicator", "net_sales_amount", "current_balance"),
		),
	}
	referencesTable  = &tableSpec{name: "references", sources: of(schemas.ReferenceProcessedSchema, outcomeColumns, same("kind", "own_id"))}
	unprocessedTable = &tableSpec{
		name: "unprocessed",
		sources: of(schemas.UnprocessedSchema,
			outcomeColumns,
			same("kind", "item_kind"),
			below("reasons.", "reason_", "code", "field", "value", "message"),
			same("format", "original"),
		),
	}
	deadLettersTable = &tableSpec{
		name: tableDeadLetters,
		sources: of(schemas.DeadLetterSchema,
			[]columnSpec{{name: "tenant", path: "tenant", plain: true}},
			below("", "source_", "topic", "epoch", "partition", "offset"),
			same("key", "value"),
			below("headers.", "header_", "key", "value"),
			below("reason.", "reason_", "code", "field", "value", "message"),
			same("recorded_at", "at"),
		),
	}
	referenceTables = map[string]*tableSpec{
		schemas.Accounts:            reference(schemas.Accounts, schemas.AccountSchema, []string{"id"}, same("id", "number", "name", "payment_medium_types", "payment_medium_brands")),
		schemas.Participants:        reference(schemas.Participants, schemas.ParticipantSchema, []string{"id"}, same("id", "number", "account_id")),
		schemas.Units:               reference(schemas.Units, schemas.UnitSchema, []string{"id"}, same("id", "name", "alternative_code", "currency_id", "currency_code")),
		schemas.Classifications:     reference(schemas.Classifications, schemas.ClassificationSchema, []string{"id"}, same("id", "name", "alternative_code", "kind")),
		schemas.Products:            reference(schemas.Products, schemas.ProductSchema, []string{"id"}, slices.Concat(folded("id"), same("id", "number", "code", "alternative_code", "description", "barcodes"))),
		schemas.PaymentMediumTypes:  reference(schemas.PaymentMediumTypes, schemas.PaymentMediumTypeSchema, []string{"id"}, same("id", "name", "alternative_code")),
		schemas.PaymentMediumBrands: reference(schemas.PaymentMediumBrands, schemas.PaymentMediumBrandSchema, []string{"id"}, same("id", "name", "alternative_code")),
		schemas.KPIs:                reference(schemas.KPIs, schemas.KPISchema, []string{"id"}, same("id", "name", "alternative_code")),
		schemas.Customers:           reference(schemas.Customers, schemas.CustomerSchema, []string{"id"}, same("id", "account_number", "name")),
		schemas.CustomerParts:       reference(schemas.CustomerParts, schemas.CustomerPartSchema, []string{"customer", "product"}, slices.Concat(folded("product"), same("customer", "product", "part_number"))),
		schemas.Invoices:            reference(schemas.Invoices, schemas.InvoiceSchema, []string{"id"}, same("id", "number", "reference_number", "back_office_code")),
		// Without the hash of the secret, which no analyst needs.
		schemas.APIKeys: reference(schemas.APIKeys, schemas.APIKeySchema, []string{"id"}, same("id", "doors", "allowed_ips", "rate_limit", "enabled", "note", "created_at")),
	}
	factTables = map[string][]*tableSpec{
		schemas.Calls: {fact(schemas.Calls, schemas.CallSchema, []string{"id"}, slices.Concat(
			same("id", "started_at", "caller_number", "mhid"),
			[]columnSpec{
				// A number in a form that can be compared; empty where it is none.
				{name: "number_key", path: "caller_number", plain: true, text: schemas.PhoneKey},
				{name: "mhid_key", path: "mhid", plain: true},
			},
			same("visitor_id", "service_number", "terminating_number", "campaign", "source", "medium", "keyword", "first_source",
				"first_medium", "first_keyword", "google_click_id", "google_client_id", "media_channel", "media_owner", "media_description",
				"department", "tags", "call_ref", "page_uri", "page_title", "landing_page_uri", "landing_page_title")),
			follower{"calls_by_number_state", []string{"number_key", "started_at"}, callColumns},
			follower{"calls_by_mhid_state", []string{"mhid_key", "started_at"}, callColumns})},
		schemas.OrderLines: {fact(schemas.OrderLines, schemas.OrderLineSchema, []string{"id"},
			slices.Concat(folded("product"), same("id", "order_number", "customer", "product", "quantity", "ordered_on")),
			follower{"order_lines_by_customer_state", []string{"customer"}, []string{"order_number", "product", "product_key", "quantity", "ordered_on"}})},
		schemas.InvoiceLines: {fact(schemas.InvoiceLines, schemas.InvoiceLineSchema, []string{"id"},
			slices.Concat(folded("product"), same("id", "invoice_number", "order_number", "customer", "product", "quantity", "invoiced_on")),
			follower{"invoice_lines_by_customer_state", []string{"customer"}, []string{"invoice_number", "order_number", "product", "product_key", "quantity", "invoiced_on"}})},
		schemas.StockLevels: {fact(schemas.StockLevels, schemas.StockSchema, []string{"product"},
			slices.Concat(folded("product"), same("product", "available_now", "physical", "next_available_on", "next_available_quantity")))},
	}
)

func saleColumns(path string) []columnSpec {
	return slices.Concat(
		[]columnSpec{{name: "sale_id", path: path + "id"}},
		below(path, "", "description", "date", "value", "mhid", "clis", "lookback"),
		below(path+"properties.", "property_", "key", "value"))
}

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

// folded is the column <member>_key of an id that is compared without regard to case.
func folded(member string) []columnSpec {
	return []columnSpec{{name: member + "_key", path: member, text: schemas.Fold}}
}

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

// of is the one source of a table.
func of(schema *schemas.Schema, columns ...[]columnSpec) []source {
	return []source{{schema: schema, columns: slices.Concat(columns...)}}
}

func reference(topic string, schema *schemas.Schema, key []string, columns []columnSpec) *tableSpec {
	return &tableSpec{name: topic + "_state", state: true, key: key, sources: of(schema, columns), own: []ownColumn{versionColumn}}
}

func fact(topic string, schema *schemas.Schema, key []string, columns []columnSpec, followers ...follower) *tableSpec {
	return &tableSpec{
		name: topic + "_state", state: true, key: key, sources: of(schema, columns), own: []ownColumn{factVersionColumn}, spread: true, followers: followers,
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
		if t.key != nil {
			names = append(names, strings.TrimSuffix(t.name, "_state"))
		}
		for _, f := range t.followers {
			names = append(names, f.table)
		}
	}
	return append(names, "outcomes", "batch_status", "unprocessed_open", "unprocessed_by_reason", "ownership_current",
		"sales_current", "transactions_current", "purchases_by_account", "purchase_lines", "measures")
}

// sqlColumns describes the columns of the table as SQL, for comparison with what a server has.
func (t *tableSpec) sqlColumns() (names, types []string, err error) {
	if !t.state {
		names = append(names, columnTopic, columnEpoch, columnPartition, columnOffset, columnWriteBy)
		types = append(types, "String", "Int32", "Int32", "Int64", "DateTime64(3, 'UTC')")
	}
	if t.key != nil {
		names = append(names, "tenant", "is_deleted")
		types = append(types, "String", "UInt8")
	}
	for _, o := range t.own {
		names = append(names, o.name)
		types = append(types, "Int64")
	}
	all, err := t.resolve()
	if err != nil {
		return nil, nil, err
	}
	for _, c := range all {
		typ := sqlTypes[c.kind]
		if c.nullable {
			typ = "Nullable(" + typ + ")"
		}
		if c.list {
			typ = "Array(" + typ + ")"
		}
		names = append(names, c.name)
		types = append(types, typ)
	}
	return names, types, nil
}

// tableColumn is a column that is filled from Avro, as all sources of its table have it.
type tableColumn struct {
	name           string
	kind           leafKind
	nullable, list bool
}

// resolve finds the columns of the table that are filled from Avro, in the order in which the sources name them.
func (t *tableSpec) resolve() ([]tableColumn, error) {
	var all []tableColumn
	named := map[string]int{} // sources that have the column
	plain := map[string]bool{}
	for _, src := range t.sources {
		reader := newCompiler(src.schema.Avro())
		for _, s := range src.columns {
			kind, nullable, list, _, err := reader.resolve(s.path)
			if err != nil {
				return nil, fmt.Errorf("table %s: %w", t.name, err)
			}
			at := slices.IndexFunc(all, func(c tableColumn) bool { return c.name == s.name })
			if at < 0 {
				at = len(all)
				all = append(all, tableColumn{name: s.name, kind: kind, list: list})
			}
			c := &all[at]
			if c.kind != kind || c.list != list {
				return nil, fmt.Errorf("table %s: the sources of column %s are of two types", t.name, s.name)
			}
			c.nullable = c.nullable || nullable
			plain[s.name] = plain[s.name] || s.plain
			named[s.name]++
		}
	}
	for i := range all {
		c := &all[i]
		c.nullable = !plain[c.name] && (c.nullable || named[c.name] < len(t.sources) && !c.list)
	}
	return all, nil
}
