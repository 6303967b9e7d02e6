package checker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/processors/matching"
	"github.com/counterfoil/counterfoil/processors/upserts"
	"github.com/counterfoil/counterfoil/processors/validation"
	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/harness"
)

// World is what Kafka and ClickHouse hold. Records and rows are in the order of topic, partition, offset.
type World struct {
	Partitions   int32 // of item and result topics
	Batches      []Batch
	Items        []Item
	Outcomes     []Outcome
	Records      []Record  // of fact and reference topics
	Requests     []Request // headers of requests with an idempotency key
	Answers      []Answer
	State        map[string]schemas.OwnershipState // last values of ownership.state, by key
	Remembered   map[string]schemas.Request        // last values of requests.state, by key
	Attempts     map[string]schemas.Attempt        // last values of attempts, by key
	DeadLetters  []Position                        // records of the topic dead_letters
	Dead         map[Position]bool                 // records that dead letters are about, those that the sink found included
	Tables       map[string][]Row                  // log tables of ClickHouse, by name
	Ownership    map[string]int64                  // view ownership_current: quantities by key
	Sales        map[string]SaleNow                // view sales_current, by key
	Transactions map[string]bool                   // ids of the items that the view transactions_current shows
	Status       map[string]StatusNow              // view batch_status, by key of the batch
	Facts        map[string]map[string]FactNow     // views of facts by topic, each by tenant/own id
}

// Position is where a record lies.
type Position struct {
	Topic     string
	Partition int32
	Offset    int64
}

func (p Position) String() string { return fmt.Sprintf("%s/%d@%d", p.Topic, p.Partition, p.Offset) }

// Batch is a record of the topic batches.
type Batch struct {
	Position
	schemas.BatchHeader
}

// Item is a record of an item topic that can be read as an item.
type Item struct {
	Position
	Kind        string
	Tenant      string
	ID          string
	Batch       string // key; empty for a bare record
	Index       int32
	Attempt     int32
	First       *schemas.First // of a replay
	Marker      string         // see [Sent]
	Origin      *schemas.Origin
	Misplaced   bool // lies in another partition than that of its key: to be forwarded
	Appended    time.Time
	Ownership   *schemas.Ownership
	Referral    *schemas.Referral
	Sale        *schemas.Sale
	Transaction *schemas.Transaction
}

// Outcome is a record of a result topic.
type Outcome struct {
	Position
	schemas.Outcome
	Processed bool
	Ownership *schemas.OwnershipResult
	Event     *schemas.EventResult
	Referral  *schemas.ReferralResult
	Sale      *schemas.SaleResult
	Unmatched *schemas.UnmatchedSale
	Reference *schemas.ReferenceProcessed
	Reasons   []schemas.Reason
	Marker    string
}

// Source is where the item lay when it was judged; Offset -1: it was refused at the door.
func (o *Outcome) Source() Position {
	return Position{o.SourceTopic, o.SourcePartition, o.SourceOffset}
}

// Record is a record of a fact or reference topic that can be read.
type Record struct {
	Position
	Tenant, OwnID string
	ID            string // of a bare record; one that came through the API has an outcome, which has it
	Batch         string // key; empty for a bare record
	Index         int32
	Marker        string // of a bare record
	Appended      time.Time
	Producers     bool          // Appended is the producer's time: kfake keeps it, where Apache Kafka puts its own, as the topics ask for
	Text          string        // see factText; empty for a deletion, and of references
	Call          *schemas.Call // of calls
}

// Request is the header of a batch that was sent with an idempotency key, on the topic requests.
type Request struct {
	Position
	Key      string // schemas.RequestKey
	BodyHash string
	Batch    string
}

// Answer is a record of requests.answers.
type Answer struct {
	Position
	schemas.RequestAnswer
}

// SaleNow is a row of the view sales_current.
type SaleNow struct {
	Version int64
	ID      string // of the item that it was last
	CallID  string // empty: unmatched
	Value   string
}

// StatusNow is a row of the view batch_status.
type StatusNow struct {
	Status                 string
	Processed, Unprocessed int64
}

// FactNow is a row of a fact's view.
type FactNow struct {
	Version int64
	Text    string // see factText
}

// Row is a row of a log table.
type Row struct {
	Position
	Tenant  string
	ID      string // of the item; of batches the key
	Attempt int32  // at the item
}

// tables are the log tables with the topics that feed them. Of sales.unprocessed only unmatched sales are in sales.
var tables = map[string][]string{
	"batches":         {schemas.Batches},
	"ownership":       {schemas.ProcessedTopic(schemas.KindOwnership)},
	"customer_events": {schemas.ProcessedTopic(schemas.KindCustomerEvents)},
	"referrals":       {schemas.ProcessedTopic(schemas.KindReferrals)},
	"sales":           {schemas.ProcessedTopic(schemas.KindSales), schemas.UnprocessedTopic(schemas.KindSales)},
	"transactions":    {schemas.ProcessedTopic(schemas.KindTransactions)},
	"references":      {schemas.ProcessedTopic(schemas.References)},
	"unprocessed":     unprocessedTopics(),
	"dead_letters":    {schemas.DeadLetters},
}

func unprocessedTopics() (all []string) {
	for _, t := range schemas.Topics() {
		if t.Role == schemas.RoleUnprocessed {
			all = append(all, t.Name)
		}
	}
	return all
}

// Read collects the world. Nothing should be on its way any more.
func Read(ctx context.Context, p *harness.Parts) (*World, error) {
	w := &World{
		State: map[string]schemas.OwnershipState{}, Remembered: map[string]schemas.Request{}, Attempts: map[string]schemas.Attempt{}, Dead: map[Position]bool{}, Tables: map[string][]Row{},
		Ownership: map[string]int64{}, Sales: map[string]SaleNow{}, Transactions: map[string]bool{}, Status: map[string]StatusNow{}, Facts: map[string]map[string]FactNow{},
	}
	r := newReader(w, p.Registry)
	var err error
	if w.Partitions, err = partitions(ctx, p.Kafka); err != nil {
		return nil, err
	}
	var topics []string
	for _, t := range schemas.Topics() {
		if t.Name != schemas.APIKeys && t.Name != schemas.StateTopic(schemas.KindReferrals) {
			topics = append(topics, t.Name)
		}
	}
	records, err := harness.ReadCommitted(ctx, p.Kafka, topics...)
	if err != nil {
		return nil, err
	}
	for _, rec := range records {
		if err := r.record(ctx, rec); err != nil {
			return nil, fmt.Errorf("%s/%d@%d: %w", rec.Topic, rec.Partition, rec.Offset, err)
		}
	}
	return w, w.readTables(ctx, p.Conn())
}

func partitions(ctx context.Context, kafka []kgo.Opt) (int32, error) {
	client, err := kgo.NewClient(kafka...)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	n, err := harness.Partitions(ctx, client, schemas.KindOwnership)
	return int32(n), err
}

// reader decodes records into a world.
type reader struct {
	w                *World
	headers          *schemas.Decoder[schemas.BatchHeader]
	changes          *schemas.Decoder[schemas.Ownership]
	events           *schemas.Decoder[schemas.CustomerEvent]
	referrals        *schemas.Decoder[schemas.Referral]
	sales            *schemas.Decoder[schemas.Sale]
	transactions     *schemas.Decoder[schemas.Transaction]
	changed          *schemas.Decoder[schemas.OwnershipResult]
	eventsDone       *schemas.Decoder[schemas.EventResult]
	referralsDone    *schemas.Decoder[schemas.ReferralResult]
	salesDone        *schemas.Decoder[schemas.SaleResult]
	transactionsDone *schemas.Decoder[schemas.TransactionResult]
	referencesDone   *schemas.Decoder[schemas.ReferenceProcessed]
	unprocessed      *schemas.Decoder[schemas.Unprocessed]
	ownershipState   *schemas.Decoder[schemas.OwnershipState]
	requestState     *schemas.Decoder[schemas.Request]
	attempts         *schemas.Decoder[schemas.Attempt]
	answers          *schemas.Decoder[schemas.RequestAnswer]
	deadLetters      *schemas.Decoder[schemas.DeadLetter]
	calls            *schemas.Decoder[schemas.Call]
	orderLines       *schemas.Decoder[schemas.OrderLine]
	invoiceLines     *schemas.Decoder[schemas.InvoiceLine]
	stock            *schemas.Decoder[schemas.Stock]
}

func newReader(w *World, r *schemas.Registry) *reader {
	return &reader{
		w:                w,
		headers:          schemas.NewDecoder[schemas.BatchHeader](r, schemas.BatchHeaderSchema),
		changes:          schemas.NewDecoder[schemas.Ownership](r, schemas.OwnershipSchema),
		events:           schemas.NewDecoder[schemas.CustomerEvent](r, schemas.CustomerEventSchema),
		referrals:        schemas.NewDecoder[schemas.Referral](r, schemas.ReferralSchema),
		sales:            schemas.NewDecoder[schemas.Sale](r, schemas.SaleSchema),
		transactions:     schemas.NewDecoder[schemas.Transaction](r, schemas.TransactionSchema),
		changed:          schemas.NewHeadDecoder[schemas.OwnershipResult](r, schemas.OwnershipProcessedSchema),
		eventsDone:       schemas.NewHeadDecoder[schemas.EventResult](r, schemas.EventProcessedSchema),
		referralsDone:    schemas.NewHeadDecoder[schemas.ReferralResult](r, schemas.ReferralProcessedSchema),
		salesDone:        schemas.NewHeadDecoder[schemas.SaleResult](r, schemas.SaleProcessedSchema),
		transactionsDone: schemas.NewHeadDecoder[schemas.TransactionResult](r, schemas.TransactionProcessedSchema),
		referencesDone:   schemas.NewDecoder[schemas.ReferenceProcessed](r, schemas.ReferenceProcessedSchema),
		unprocessed:      schemas.NewDecoder[schemas.Unprocessed](r, schemas.UnprocessedSchema),
		ownershipState:   schemas.NewDecoder[schemas.OwnershipState](r, schemas.OwnershipStateSchema),
		requestState:     schemas.NewDecoder[schemas.Request](r, schemas.RequestSchema),
		attempts:         schemas.NewDecoder[schemas.Attempt](r, schemas.AttemptSchema),
		answers:          schemas.NewDecoder[schemas.RequestAnswer](r, schemas.RequestAnswerSchema),
		deadLetters:      schemas.NewDecoder[schemas.DeadLetter](r, schemas.DeadLetterSchema),
		calls:            schemas.NewDecoder[schemas.Call](r, schemas.CallSchema),
		orderLines:       schemas.NewDecoder[schemas.OrderLine](r, schemas.OrderLineSchema),
		invoiceLines:     schemas.NewDecoder[schemas.InvoiceLine](r, schemas.InvoiceLineSchema),
		stock:            schemas.NewDecoder[schemas.Stock](r, schemas.StockSchema),
	}
}

// decode reads a value into v.
func decode[T any](ctx context.Context, d *schemas.Decoder[T], value []byte, v *T) error {
	var err error
	*v, err = d.Await(ctx, value)
	return err
}

func (r *reader) record(ctx context.Context, rec *kgo.Record) error {
	t, ok := schemas.TopicNamed(rec.Topic)
	if !ok {
		return errors.New("not a topic of ours")
	}
	at := Position{rec.Topic, rec.Partition, rec.Offset}
	switch t.Role {
	case schemas.RoleBatches:
		b := Batch{Position: at}
		err := decode(ctx, r.headers, rec.Value, &b.BatchHeader)
		r.w.Batches = append(r.w.Batches, b)
		return err
	case schemas.RoleItem:
		return r.item(ctx, at, t.Kind, rec)
	case schemas.RoleProcessed, schemas.RoleUnprocessed:
		return r.outcome(ctx, at, t, rec)
	case schemas.RoleState:
		if t.Name == schemas.Attempts {
			return remember(ctx, r.attempts, r.w.Attempts, rec)
		}
		if t.Kind == schemas.Requests {
			return remember(ctx, r.requestState, r.w.Remembered, rec)
		}
		return remember(ctx, r.ownershipState, r.w.State, rec)
	case schemas.RoleFact, schemas.RoleReference:
		return r.stored(ctx, at, t, rec)
	case schemas.RoleRequests:
		r.request(at, rec)
		return nil
	case schemas.RoleAnswers:
		a := Answer{Position: at}
		err := decode(ctx, r.answers, rec.Value, &a.RequestAnswer)
		r.w.Answers = append(r.w.Answers, a)
		return err
	case schemas.RoleDeadLetters:
		var d schemas.DeadLetter
		err := decode(ctx, r.deadLetters, rec.Value, &d)
		r.w.DeadLetters = append(r.w.DeadLetters, at)
		r.w.Dead[Position{d.Topic, d.Partition, d.Offset}] = true
		return err
	default:
		return nil
	}
}

// remember applies a record of a changelog.
func remember[T any](ctx context.Context, d *schemas.Decoder[T], last map[string]T, rec *kgo.Record) error {
	if rec.Value == nil {
		delete(last, string(rec.Key))
		return nil
	}
	var v T
	err := decode(ctx, d, rec.Value, &v)
	last[string(rec.Key)] = v
	return err
}

// createTime is the timestamp type of a record that has its producer's time, as kgo has it.
const createTime = 0

// stored reads a record of a fact or reference topic; one that cannot be read, or breaks a rule, is none.
func (r *reader) stored(ctx context.Context, at Position, t schemas.Topic, rec *kgo.Record) error {
	tenant, own, err := schemas.SplitReference(rec)
	if err != nil {
		return nil //nolint:nilerr // to be a dead letter
	}
	env, _ := schemas.ParseEnvelope(rec.Headers) // SplitReference has read it, too
	f := Record{Position: at, Tenant: tenant, OwnID: own, Batch: env.Batch, Index: env.Index, Appended: rec.Timestamp, Producers: rec.Attrs.TimestampType() == createTime}
	if env.Batch == "" {
		f.ID, f.Marker = schemas.BareItemID(at.Topic, 0, at.Partition, at.Offset), markerOf(env.Ref)
	}
	if t.Role == schemas.RoleReference {
		r.w.Records = append(r.w.Records, f)
		return nil
	}
	if rec.Value != nil {
		var value fact
		switch at.Topic {
		case schemas.Calls:
			f.Call = new(schemas.Call)
			value, err = f.Call, decode(ctx, r.calls, rec.Value, f.Call)
		case schemas.OrderLines:
			line := new(schemas.OrderLine)
			value, err = line, decode(ctx, r.orderLines, rec.Value, line)
		case schemas.InvoiceLines:
			line := new(schemas.InvoiceLine)
			value, err = line, decode(ctx, r.invoiceLines, rec.Value, line)
		default:
			stock := new(schemas.Stock)
			value, err = stock, decode(ctx, r.stock, rec.Value, stock)
		}
		var bad *schemas.BadRecordError
		if errors.As(err, &bad) || err == nil && (value.OwnID() != own || validation.CheckRecord(at.Topic, value) != nil) {
			return nil
		}
		if err != nil {
			return err
		}
		f.Text = factText(value)
	}
	r.w.Records = append(r.w.Records, f)
	return nil
}

// request reads the header of a request with an idempotency key; its other records are found where they are passed on to.
func (r *reader) request(at Position, rec *kgo.Record) {
	env, err := schemas.ParseEnvelope(rec.Headers)
	to, _, perr := schemas.ParsePassage(rec.Headers)
	if err != nil || perr != nil || to.Topic != schemas.Batches {
		return
	}
	r.w.Requests = append(r.w.Requests, Request{
		Position: at, Key: string(schemas.RequestKey(env.Tenant, to.Route, to.Key)), BodyHash: string(to.BodyHash), Batch: env.Batch,
	})
}

// item reads an item; one that cannot be read is none.
func (r *reader) item(ctx context.Context, at Position, kind string, rec *kgo.Record) error {
	env, err := schemas.ParseEnvelope(rec.Headers)
	if err != nil {
		return nil //nolint:nilerr // to be a dead letter
	}
	it := Item{Position: at, Kind: kind, Tenant: env.Tenant, Batch: env.Batch, Index: env.Index, Attempt: env.Attempt, First: env.First, Origin: env.Origin, Appended: rec.Timestamp}
	it.Marker = markerOf(env.Ref)
	var key []byte
	switch kind {
	case schemas.KindOwnership:
		it.Ownership = new(schemas.Ownership)
		err = decode(ctx, r.changes, rec.Value, it.Ownership)
		if err == nil && upserts.Check(it.Ownership) == nil {
			key = upserts.Key(env.Tenant, it.Ownership)
		}
		if it.Marker == "" && err == nil {
			it.Marker = markerOf(it.Ownership.Source)
		}
	case schemas.KindReferrals:
		it.Referral = new(schemas.Referral)
		err = decode(ctx, r.referrals, rec.Value, it.Referral)
		if err == nil && validation.CheckReferral(it.Referral) == nil {
			key = []byte(env.Tenant)
		}
	case schemas.KindSales:
		it.Sale = new(schemas.Sale)
		err = decode(ctx, r.sales, rec.Value, it.Sale)
		if err == nil && matching.Check(it.Sale) == nil && matching.Ordered(it.Sale) {
			key = matching.Key(env.Tenant, it.Sale, "")
		}
		if it.Marker == "" && err == nil {
			it.Marker = markerOf(it.Sale.Description)
		}
	case schemas.KindTransactions:
		it.Transaction = new(schemas.Transaction)
		err = decode(ctx, r.transactions, rec.Value, it.Transaction)
		if it.Marker == "" && err == nil {
			it.Marker = markerOf(it.Transaction.OrderNumber)
		}
	default:
		var v schemas.CustomerEvent
		err = decode(ctx, r.events, rec.Value, &v)
	}
	var bad *schemas.BadRecordError
	if errors.As(err, &bad) {
		return nil
	}
	if err != nil {
		return err
	}
	it.Misplaced = key != nil && schemas.Partition(key, r.w.Partitions) != at.Partition
	it.ID = env.ItemID(at.Topic, 0, at.Partition, at.Offset)
	r.w.Items = append(r.w.Items, it)
	return nil
}

func (r *reader) outcome(ctx context.Context, at Position, t schemas.Topic, rec *kgo.Record) error {
	o := Outcome{Position: at, Processed: t.Role == schemas.RoleProcessed}
	var err error
	switch {
	case !o.Processed:
		var v schemas.Unprocessed
		err = decode(ctx, r.unprocessed, rec.Value, &v)
		o.Outcome, o.Reasons, o.Unmatched = v.Outcome, v.Reasons, v.Sale
	case t.Kind == schemas.KindOwnership:
		o.Ownership = new(schemas.OwnershipResult)
		err = decode(ctx, r.changed, rec.Value, o.Ownership)
		o.Outcome = o.Ownership.Outcome
	case t.Kind == schemas.KindCustomerEvents:
		o.Event = new(schemas.EventResult)
		err = decode(ctx, r.eventsDone, rec.Value, o.Event)
		o.Outcome = o.Event.Outcome
	case t.Kind == schemas.KindSales:
		o.Sale = new(schemas.SaleResult)
		err = decode(ctx, r.salesDone, rec.Value, o.Sale)
		o.Outcome = o.Sale.Outcome
	case t.Kind == schemas.KindTransactions:
		var v schemas.TransactionResult
		err = decode(ctx, r.transactionsDone, rec.Value, &v)
		o.Outcome = v.Outcome
	case t.Kind == schemas.References:
		o.Reference = new(schemas.ReferenceProcessed)
		err = decode(ctx, r.referencesDone, rec.Value, o.Reference)
		o.Outcome = o.Reference.Outcome
	default:
		o.Referral = new(schemas.ReferralResult)
		err = decode(ctx, r.referralsDone, rec.Value, o.Referral)
		o.Outcome = o.Referral.Outcome
	}
	o.Marker = markerOf(o.Ref)
	r.w.Outcomes = append(r.w.Outcomes, o)
	return err
}

// readTables reads the log tables and the views of what holds now.
func (w *World) readTables(ctx context.Context, conn driver.Conn) error {
	for table := range tables {
		id := "id, attempt"
		switch table {
		case "batches":
			id = "key, toInt32(0)"
		case "dead_letters":
			id = "'', toInt32(0)"
		}
		all := []Row{}
		err := query(ctx, conn, "SELECT topic, partition, offset, tenant, "+id+" FROM `"+table+"`", func(scan func(...any) error) error {
			var r Row
			err := scan(&r.Topic, &r.Partition, &r.Offset, &r.Tenant, &r.ID, &r.Attempt)
			all = append(all, r)
			return err
		})
		if err != nil {
			return err
		}
		slices.SortFunc(all, func(a, b Row) int { return comparePositions(a.Position, b.Position) })
		w.Tables[table] = all
	}
	for _, read := range []func(context.Context, driver.Conn) error{w.readDead, w.readOwnership, w.readSales, w.readTransactions, w.readStatus, w.readFacts} {
		if err := read(ctx, conn); err != nil {
			return err
		}
	}
	return nil
}

// query hands each row of a query to row.
func query(ctx context.Context, conn driver.Conn, sql string, row func(scan func(...any) error) error) error {
	rows, err := conn.Query(ctx, sql)
	if err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

func (w *World) readDead(ctx context.Context, conn driver.Conn) error {
	return query(ctx, conn, "SELECT source_topic, source_partition, source_offset FROM dead_letters", func(scan func(...any) error) error {
		var at Position
		err := scan(&at.Topic, &at.Partition, &at.Offset)
		w.Dead[at] = true
		return err
	})
}

func (w *World) readOwnership(ctx context.Context, conn driver.Conn) error {
	return query(ctx, conn, "SELECT tenant, user_key, sku_key, quantity FROM ownership_current", func(scan func(...any) error) error {
		var tenant, user, sku string
		var quantity int64
		err := scan(&tenant, &user, &sku, &quantity)
		w.Ownership[tenant+"\x00"+user+"\x00"+sku] = quantity
		return err
	})
}

func (w *World) readSales(ctx context.Context, conn driver.Conn) error {
	sql := "SELECT tenant, sale_key, version, id, ifNull(call_id, ''), ifNull(value, '') FROM sales_current"
	return query(ctx, conn, sql, func(scan func(...any) error) error {
		var tenant, key string
		var now SaleNow
		err := scan(&tenant, &key, &now.Version, &now.ID, &now.CallID, &now.Value)
		w.Sales[tenant+"\x00"+key] = now
		return err
	})
}

func (w *World) readTransactions(ctx context.Context, conn driver.Conn) error {
	return query(ctx, conn, "SELECT id FROM transactions_current", func(scan func(...any) error) error {
		var id string
		err := scan(&id)
		w.Transactions[id] = true
		return err
	})
}

func (w *World) readStatus(ctx context.Context, conn driver.Conn) error {
	return query(ctx, conn, "SELECT batch, status, processed, unprocessed FROM batch_status", func(scan func(...any) error) error {
		var batch string
		var now StatusNow
		err := scan(&batch, &now.Status, &now.Processed, &now.Unprocessed)
		w.Status[batch] = now
		return err
	})
}

// readFacts reads of each fact's view what factText shows.
func (w *World) readFacts(ctx context.Context, conn driver.Conn) error {
	view := func(topic, columns string, row func(tenant *string, version *int64, scan func(...any) error) (fact, error)) error {
		now := map[string]FactNow{}
		w.Facts[topic] = now
		return query(ctx, conn, "SELECT tenant, version, "+columns+" FROM "+topic, func(scan func(...any) error) error {
			var tenant string
			var version int64
			f, err := row(&tenant, &version, scan)
			if err == nil {
				now[tenant+"/"+f.OwnID()] = FactNow{version, factText(f)}
			}
			return err
		})
	}
	return errors.Join(
		view(schemas.Calls, "id, started_at, caller_number, mhid, campaign", func(tenant *string, version *int64, scan func(...any) error) (fact, error) {
			var c schemas.Call
			return &c, scan(tenant, version, &c.ID, &c.StartedAt, &c.CallerNumber, &c.MHID, &c.Campaign)
		}),
		view(schemas.OrderLines, "id, customer, product, quantity, ordered_on", func(tenant *string, version *int64, scan func(...any) error) (fact, error) {
			var l schemas.OrderLine
			return &l, scan(tenant, version, &l.ID, &l.Customer, &l.Product, &l.Quantity, &l.OrderedOn)
		}),
		view(schemas.InvoiceLines, "id, customer, product, quantity, invoiced_on", func(tenant *string, version *int64, scan func(...any) error) (fact, error) {
			var l schemas.InvoiceLine
			return &l, scan(tenant, version, &l.ID, &l.Customer, &l.Product, &l.Quantity, &l.InvoicedOn)
		}),
		view(schemas.StockLevels, "product, available_now, physical", func(tenant *string, version *int64, scan func(...any) error) (fact, error) {
			var s schemas.Stock
			return &s, scan(tenant, version, &s.Product, &s.AvailableNow, &s.Physical)
		}),
	)
}

// fact is a record of a fact topic.
type fact interface{ OwnID() string }

// factText shows the members by which two versions of a fact are told apart here.
func factText(f fact) string {
	switch f := f.(type) {
	case *schemas.Call:
		return fmt.Sprintf("started %s, number %s, MHID %s, campaign %s", f.StartedAt.UTC().Format(time.RFC3339Nano), text(f.CallerNumber), text(f.MHID), text(f.Campaign))
	case *schemas.OrderLine:
		return fmt.Sprintf("%s of %s for %d on %s", f.Quantity.StringFixed(10), f.Product, f.Customer, f.OrderedOn.Format(time.DateOnly))
	case *schemas.InvoiceLine:
		return fmt.Sprintf("%s of %s for %d on %s", f.Quantity.StringFixed(10), f.Product, f.Customer, f.InvoicedOn.Format(time.DateOnly))
	case *schemas.Stock:
		physical := "nothing known"
		if f.Physical != nil {
			physical = f.Physical.StringFixed(10)
		}
		return fmt.Sprintf("%s available, %s there", f.AvailableNow.StringFixed(10), physical)
	default:
		panic(fmt.Sprintf("no fact: %T", f))
	}
}

func text(s *string) string {
	if s == nil {
		return "none"
	}
	return fmt.Sprintf("%q", *s)
}

func comparePositions(a, b Position) int {
	return cmp.Or(strings.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset))
}
