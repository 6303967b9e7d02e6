// Package e2e runs the whole product with several copies of each role, on kfake or, with TEST_KAFKA=apache, on Apache Kafka: the same item by
// either door, many items over partitions and copies, reads that follow writes, pending answers, bad records, analysts.
package e2e

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/shopspring/decimal"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/checker"
	"github.com/counterfoil/counterfoil/test/harness"
	"github.com/counterfoil/counterfoil/test/stack"
)

func TestMain(m *testing.M) { harness.Main(m) }

type row = map[string]any

// proved asks the checker, once everything is judged and written.
func proved(t *testing.T, p *harness.Parts, sent []checker.Sent) *checker.World {
	t.Helper()
	p.WaitDrained(2 * time.Minute)
	return checker.Prove(t, p, sent)
}

// references are what the tests' items name.
func references(p *harness.Parts, tenant string) []*kgo.Record {
	return slices.Concat(
		harness.References(p, schemas.Accounts, tenant, &schemas.Account{ID: harness.HexID(), Number: "ACR-1"}),
		harness.References(p, schemas.Units, tenant, &schemas.Unit{ID: harness.HexID(), Name: "Unit", CurrencyCode: new("EUR")}),
		harness.References(p, schemas.Products, tenant, &schemas.Product{ID: harness.HexID(), Code: "LAMP"}),
		harness.References(p, schemas.Participants, tenant,
			&schemas.Participant{ID: harness.HexID(), Number: "RP-1"}, &schemas.Participant{ID: harness.HexID(), Number: "RP-2"},
			&schemas.Participant{ID: harness.HexID(), Number: "RP-3"}, &schemas.Participant{ID: harness.HexID(), Number: "RP-4"}),
	)
}

// webRow is a row of a web event.
func webRow(ref, account string) row {
	return row{
		"request_unique_identifier": ref, "accounts_receivable_identifier": row{"number": account}, "performed_by_unit_identifier": row{"name": "Unit"},
		"performed_on": "2016-06-22T15:00:00", "website": "www.example.org",
	}
}

// bare is a record as an upstream system produces it: the value, its tenant, and a reference of its own.
func bare(p *harness.Parts, topic, tenant, ref string, partition int32, v any) *kgo.Record {
	return &kgo.Record{Topic: topic, Partition: partition, Value: p.Encode(topic, v), Headers: []kgo.RecordHeader{
		{Key: schemas.HeaderTenant, Value: []byte(tenant)}, {Key: schemas.HeaderRef, Value: []byte(ref)},
	}}
}

func performed() schemas.EventCommon {
	return schemas.EventCommon{Unit: &schemas.Identifier{Name: new("Unit")}, PerformedOn: new(time.Date(2016, 6, 22, 15, 0, 0, 0, time.UTC))}
}

// The same items by HTTP and straight to Kafka, each set for a tenant of its own, get equal outcomes.
func TestSameItemByEitherDoor(t *testing.T) {
	c := harness.StartCluster(t, harness.Copies(1, 1, 1))
	c.Produce(slices.Concat(references(&c.Parts, "http"), references(&c.Parts, "kafka"))...)
	client := harness.NewClient(c.Ingest[0].URL, c.CreateKey("http"))
	client.LogIn(t)
	ctx := t.Context()

	accepted := func(answer *harness.Answer, err error) {
		t.Helper()
		if err != nil || answer.Verdict() != harness.Accepted {
			t.Fatalf("%v %v", answer, err)
		}
	}
	accepted(client.HelloID(ctx, []row{
		{"UserName": "Ann", "ProductSKU": "S-1", "Source": "AD", "TimeOfApproval": "22-08-2019"},
		{"UserName": "ANN", "ProductSKU": "s-1", "IncreaseQuantityBy": 4},
		{"UserName": "ann", "ProductSKU": "S-1", "HasProduct": false},
	}))
	accepted(client.Web(ctx, []row{webRow("good", "ACR-1"), webRow("unknown account", "ACR-9")}))
	accepted(client.CRM(ctx, "purchases", "purchase_customer_events_set", []row{{
		"request_unique_identifier": "purchase", "accounts_receivable_identifier": row{"number": "ACR-1"}, "performed_by_unit_identifier": row{"name": "Unit"},
		"performed_on": "2016-06-22T15:00:00", "reference_number": "R", "udf_float_1": 1.5,
		"products_set": []row{{"product_identifier": row{"code": "LAMP"}, "net_amount": "0.1", "vat_amount": 19.99, "total_amount": 20.09}},
	}}))
	accepted(client.CRM(ctx, "referrals", "referral_customer_events_set", []row{
		{"request_unique_identifier": "first", "performed_by_unit_identifier": row{"name": "Unit"}, "performed_on": "2016-06-22T15:00:00",
			"referred_rewards_participant_identifier": row{"number": "RP-1"}, "referred_by_rewards_participant_identifier": row{"number": "RP-2"}},
		{"request_unique_identifier": "second", "performed_by_unit_identifier": row{"name": "Unit"}, "performed_on": "2016-06-22T15:00:00",
			"referred_rewards_participant_identifier": row{"number": "RP-1"}, "referred_by_rewards_participant_identifier": row{"number": "RP-3"}},
	}))

	approved := time.Date(2019, 8, 22, 0, 0, 0, 0, time.UTC)
	const own, events, referrals = schemas.KindOwnership, schemas.KindCustomerEvents, schemas.KindReferrals
	event := func(kind string, account string) *schemas.CustomerEvent {
		return &schemas.CustomerEvent{Kind: kind, Account: &schemas.AccountIdentifier{Number: &account}, EventCommon: performed()}
	}
	web, unknown, purchase := event(schemas.EventWeb, "ACR-1"), event(schemas.EventWeb, "ACR-9"), event(schemas.EventPurchase, "ACR-1")
	web.Website, unknown.Website = new("www.example.org"), new("www.example.org")
	purchase.ReferenceNumber, purchase.UDFFloat1 = new("R"), new(1.5)
	purchase.Products = &[]schemas.PurchaseLine{{
		Product: &schemas.ProductIdentifier{Code: new("LAMP")}, NetAmount: new(decimal.RequireFromString("0.1")), VATAmount: new(decimal.RequireFromString("19.99")), TotalAmount: new(decimal.RequireFromString("20.09")),
	}}
	referral := func(by string) *schemas.Referral {
		return &schemas.Referral{Referred: &schemas.ParticipantIdentifier{Number: new("RP-1")}, ReferredBy: &schemas.ParticipantIdentifier{Number: &by}, EventCommon: performed()}
	}
	c.Produce( // the changes of one key lie in one partition, in their order; it is the wrong one for three of four keys
		bare(&c.Parts, own, "kafka", "", 2, &schemas.Ownership{UserName: new("Ann"), ProductSKU: new("S-1"), Source: new("AD"), TimeOfApproval: &approved}),
		bare(&c.Parts, own, "kafka", "", 2, &schemas.Ownership{UserName: new("ANN"), ProductSKU: new("s-1"), IncreaseQuantityBy: new(int64(4))}),
		bare(&c.Parts, own, "kafka", "", 2, &schemas.Ownership{UserName: new("ann"), ProductSKU: new("S-1"), HasProduct: new(false)}),
		bare(&c.Parts, events, "kafka", "good", 0, web),
		bare(&c.Parts, events, "kafka", "unknown account", 1, unknown),
		bare(&c.Parts, events, "kafka", "purchase", 3, purchase),
		bare(&c.Parts, referrals, "kafka", "first", 1, referral("RP-2")),
		bare(&c.Parts, referrals, "kafka", "second", 1, referral("RP-3")),
	)
	proved(t, &c.Parts, nil)

	// Whatever says where an item came from and what it got as identity is left out, and the references' ids, which are random here.
	for _, query := range []string{
		"SELECT user_key, sku_key, user_name, product_sku, time_of_approval, source, quantity, previous_quantity, requested_has_product, requested_quantity, requested_increase_quantity_by, attempt FROM ownership WHERE tenant = '%s' ORDER BY version",
		"SELECT ref, kind, account_number, participant_number, currency_code, length(line_product_ids), kpi_ids, amounts_differ, given_account_number, given_unit_name, performed_on, website, reference_number, udf_float_1, line_given_product_code, line_quantity, line_net_amount, line_vat_amount, line_total_amount FROM customer_events WHERE tenant = '%s' ORDER BY ref",
		"SELECT ref, kind, referred_number, referred_by_number, given_referred_number, given_unit_name, performed_on FROM referrals WHERE tenant = '%s' ORDER BY ref",
		"SELECT ref, kind, item_kind, reason_code, reason_field, reason_value, reason_message, format FROM unprocessed WHERE tenant = '%s' ORDER BY ref",
		"SELECT user_name, product_sku, quantity FROM ownership_current WHERE tenant = '%s'",
		"SELECT reason, items FROM unprocessed_by_reason WHERE tenant = '%s' ORDER BY reason",
	} {
		byHTTP, byKafka := c.SQL(fmt.Sprintf(query, "http")), c.SQL(fmt.Sprintf(query, "kafka"))
		if diff := cmp.Diff(byHTTP, byKafka); diff != "" {
			t.Errorf("%s: HTTP (-), Kafka (+):\n%s", query, diff)
		}
	}
	if got := c.SQL("SELECT (SELECT count() FROM ownership), (SELECT count() FROM customer_events), (SELECT count() FROM referrals), (SELECT count() FROM unprocessed)"); got != "6\t4\t2\t4" {
		t.Errorf("rows: %s", got)
	}
}

// Many items by both doors over 4 partitions and two copies of each role.
func TestManyItemsOverCopies(t *testing.T) {
	total := 100_000
	if testing.Short() {
		total = 10_000
	}
	// The lease is the product's: no insert of these is late, however busy the machine.
	c := harness.StartCluster(t, harness.Env("SINK_LEASE=10s", "SINK_SESSION_TIMEOUT=10s"))
	c.Produce(references(&c.Parts, "many")...)
	first := harness.NewClient(c.Ingest[0].URL, c.CreateKey("many"))
	first.LogIn(t)
	clients := []*harness.Client{first, first.At(c.Ingest[1].URL)}
	const call = 1000
	var sent []checker.Sent
	var mu sync.Mutex
	note := func(s checker.Sent) {
		mu.Lock()
		defer mu.Unlock()
		sent = append(sent, s)
	}
	began := time.Now()
	var workers sync.WaitGroup
	var next atomic.Int64
	for w := range 4 {
		workers.Go(func() {
			for {
				n := int(next.Add(1) - 1)
				if n*call >= total*6/10 { // the rest comes by Kafka
					return
				}
				marker := fmt.Sprintf("call-%d", n)
				var answer *harness.Answer
				var err error
				if n%2 == 0 {
					rows := make([]row, call)
					for i := range rows {
						rows[i] = webRow(checker.Mark(marker, i), []string{"ACR-1", "ACR-1", "ACR-1", "ACR-9"}[i%4])
					}
					answer, err = clients[w%2].Web(t.Context(), rows)
				} else {
					changes := make([]row, call)
					for i := range changes {
						changes[i] = row{"UserName": fmt.Sprintf("user-%d", (i*7+n)%500), "ProductSKU": fmt.Sprintf("sku-%d", i%3), "Source": checker.Mark(marker, i), "IncreaseQuantityBy": i%5 - 1}
					}
					answer, err = clients[w%2].HelloID(t.Context(), changes)
				}
				if err != nil || answer.Verdict() != harness.Accepted {
					t.Errorf("%s: %v %+v", marker, err, answer)
					return
				}
				note(checker.Sent{Marker: marker, Items: call, Verdict: harness.Accepted})
			}
		})
	}
	var records []*kgo.Record
	for i := range total * 4 / 10 {
		marker := fmt.Sprintf("kafka-%d", i)
		records = append(records, bare(&c.Parts, schemas.KindOwnership, "many", checker.Mark(marker, 0), int32(i%4),
			&schemas.Ownership{UserName: new(fmt.Sprintf("USER-%d", i%500)), ProductSKU: new(fmt.Sprintf("SKU-%d", i%3)), IncreaseQuantityBy: new(int64(i%4 - 1))}))
		note(checker.Sent{Marker: marker, Items: 1, Verdict: harness.Accepted})
	}
	c.Produce(records...)
	workers.Wait()
	t.Logf("%d items taken after %s", total, time.Since(began).Round(time.Millisecond))
	if t.Failed() {
		return
	}
	w := proved(t, &c.Parts, sent)
	t.Logf("all in ClickHouse after %s", time.Since(began).Round(time.Millisecond))
	if len(w.Outcomes) != total {
		t.Errorf("%d outcomes for %d items", len(w.Outcomes), total)
	}
	want := fmt.Sprint(total)
	if got := c.SQL("SELECT (SELECT count() FROM ownership) + (SELECT count() FROM customer_events) + (SELECT count() FROM unprocessed)"); got != want {
		t.Errorf("count() in ClickHouse is %s, %s items were sent", got, want)
	}
	for _, sink := range c.Sink {
		if late := sink.Metric("counterfoil_sink_late_inserts_refused_total"); late != 0 {
			t.Errorf("%s had %v late inserts", sink.Name(), late)
		}
		if rows := sink.Metric("counterfoil_sink_rows_total"); rows == 0 {
			t.Errorf("%s wrote nothing: the copies do not share the work", sink.Name())
		}
	}
}

// An event is judged against every account that was acknowledged before the event was sent, whichever replica takes it.
func TestEventsSeeAccountsWrittenBefore(t *testing.T) {
	pairs := 1000
	if harness.Soak() {
		pairs = 10_000
	}
	c := harness.StartCluster(t, harness.Env("REPLY_WAIT=25s")) // no answer is pending, however busy the machine
	c.Produce(references(&c.Parts, "causal")...)
	first := harness.NewClient(c.Ingest[0].URL, c.CreateKey("causal"))
	first.LogIn(t)
	clients := []*harness.Client{first, first.At(c.Ingest[1].URL)}
	values := make([]*kgo.Record, pairs)
	for i := range values {
		values[i] = harness.References(&c.Parts, schemas.Accounts, "causal", &schemas.Account{ID: harness.HexID(), Number: fmt.Sprintf("NEW-%d", i)})[0]
	}
	var next, missed atomic.Int64
	var workers sync.WaitGroup
	began := time.Now()
	for range 16 {
		workers.Go(func() {
			for {
				i := int(next.Add(1) - 1)
				if i >= pairs || t.Context().Err() != nil {
					return
				}
				if err := c.Client().ProduceSync(t.Context(), values[i]).FirstErr(); err != nil {
					t.Errorf("write account %d: %v", i, err)
					return
				}
				answer, err := clients[i%2].Web(t.Context(), []row{webRow("r", fmt.Sprintf("NEW-%d", i))})
				switch {
				case err != nil || answer.CRM == nil || answer.CRM.Status.Code != "OK":
					t.Errorf("event %d: %v %+v", i, err, answer)
					return
				case len(answer.CRM.Data.Processed) != 1:
					missed.Add(1)
					t.Errorf("event %d: %s", i, answer.Body)
				}
			}
		})
	}
	workers.Wait()
	t.Logf("%d pairs in %s, %d not found", pairs, time.Since(began).Round(time.Millisecond), missed.Load())
}

// While nobody judges, callers get the pending form of their partner, and any replica knows the job; once the backlog is too old, the door
// closes with 503; and when there is a processor again, everything is judged.
func TestPendingAnswersAndBacklog(t *testing.T) {
	c := harness.StartCluster(t, harness.Copies(2, 0, 1), harness.Env("REPLY_WAIT=300ms", "BACKLOG_LIMIT=5s", "SINK_WAIT=10s"))
	c.Produce(references(&c.Parts, "pending")...)
	client := harness.NewClient(c.Ingest[0].URL, c.CreateKey("pending"))
	client.LogIn(t)
	other := client.At(c.Ingest[1].URL)
	ctx := t.Context()

	crm, err := client.Web(ctx, []row{webRow(checker.Mark("crm", 0), "ACR-1"), webRow(checker.Mark("crm", 1), "ACR-9")})
	if err != nil {
		t.Fatal(err)
	}
	job := crm.Header.Get("Location")
	if crm.Status != http.StatusAccepted || crm.CRM == nil || crm.CRM.Status.Code != "PENDING" || !strings.HasPrefix(job, "/v1/batches/") || !strings.Contains(crm.CRM.Status.Message, job) {
		t.Fatalf("CRM.COM's pending answer: %d, Location %q\n%s", crm.Status, job, crm.Body)
	}
	if !strings.HasPrefix(string(crm.Body), `{"data":{},"status":{"code":"PENDING",`) {
		t.Errorf("CRM.COM's pending answer is %s", crm.Body)
	}
	hello, err := client.HelloID(ctx, []row{{"UserName": "u", "ProductSKU": "s", "Source": checker.Mark("hello", 0)}})
	if err != nil {
		t.Fatal(err)
	}
	var result struct {
		ResultCode int
		ResultMsg  string
	}
	if err := json.Unmarshal(hello.Body, &result); err != nil || hello.Status != http.StatusAccepted || result.ResultCode != http.StatusAccepted ||
		!strings.Contains(result.ResultMsg, hello.Header.Get("Location")) || hello.Header.Get("Location") == job {
		t.Fatalf("HelloID's pending answer: %d, Location %q\n%s", hello.Status, hello.Header.Get("Location"), hello.Body)
	}

	status := func(job string) string {
		t.Helper()
		answer, err := other.Get(ctx, job)
		if err != nil {
			return err.Error()
		}
		var b struct {
			Status                          string
			Processed, Unprocessed, Pending int
		}
		if err := json.Unmarshal(answer.Body, &b); err != nil || answer.Status != http.StatusOK {
			return fmt.Sprintf("%d %s", answer.Status, answer.Body)
		}
		return fmt.Sprintf("%s %d %d %d", b.Status, b.Processed, b.Unprocessed, b.Pending)
	}
	if got := status(job); got != "processing 0 0 2" {
		t.Errorf("the job on another replica: %s", got)
	}

	// The oldest unjudged item grows older than the limit.
	sent := []checker.Sent{{Marker: "crm", Items: 2, Verdict: harness.Accepted}, {Marker: "hello", Items: 1, Verdict: harness.Accepted}}
	var refused *harness.Answer
	for i := 0; refused == nil; i++ {
		if i > 100 {
			t.Fatal("the door stays open although nothing is judged for longer than BACKLOG_LIMIT")
		}
		marker := fmt.Sprintf("late-%d", i)
		answer, err := other.Web(ctx, []row{webRow(checker.Mark(marker, 0), "ACR-1")})
		if err != nil {
			t.Fatal(err)
		}
		sent = append(sent, checker.Sent{Marker: marker, Items: 1, Verdict: answer.Verdict()})
		if answer.Status == http.StatusServiceUnavailable {
			refused = answer
		}
		time.Sleep(200 * time.Millisecond)
	}
	if refused.Header.Get("Retry-After") == "" || refused.CRM == nil || refused.CRM.Status.Code != "ServiceUnavailableException" {
		t.Errorf("the refusal: Retry-After %q\n%s", refused.Header.Get("Retry-After"), refused.Body)
	}

	c.AddProcess()
	harness.Eventually(t, time.Minute, func() string {
		if got := status(job); got != "complete 1 1 0" {
			return "the job: " + got
		}
		return ""
	})
	harness.Eventually(t, time.Minute, func() string {
		answer, err := client.Web(ctx, []row{webRow("again", "ACR-1")})
		if err != nil || answer.Status != http.StatusOK {
			return fmt.Sprintf("the door: %v %+v", err, answer)
		}
		return ""
	})
	proved(t, &c.Parts, sent)
}

// Records that cannot be read go to dead_letters, items that are wrong become unprocessed, both with their bytes, and the good ones between them are judged.
func TestBadRecordsStopNobody(t *testing.T) {
	c := harness.StartCluster(t, harness.Copies(1, 2, 2), harness.Env("SCHEMA_CONFIRM_AFTER=1s"))
	c.Produce(references(&c.Parts, "bad")...)
	const own = schemas.KindOwnership
	good := &schemas.Ownership{UserName: new("u"), ProductSKU: new("s")}
	value := c.Encode(own, good)
	tenant := kgo.RecordHeader{Key: schemas.HeaderTenant, Value: []byte("bad")}
	unknown := append([]byte{0, 0, 0x7f, 0xff, 0xff}, value[5:]...)
	nobody := c.Encode(own, &schemas.Ownership{ProductSKU: new("s"), Quantity: new(int64(-1))})
	var records []*kgo.Record
	add := func(topic string, value []byte, headers ...kgo.RecordHeader) {
		for partition := range int32(4) {
			records = append(records,
				bare(&c.Parts, own, "bad", "good", partition, good),
				&kgo.Record{Topic: topic, Partition: partition, Value: value, Headers: headers})
		}
	}
	add(own, value)                                                                       // no tenant
	add(own, []byte("not Avro"), tenant)                                                  //
	add(own, nil, tenant)                                                                 // no value
	add(own, value[:len(value)-2], tenant)                                                // cut off
	add(own, append(slices.Clone(value), 1), tenant)                                      // too long
	add(own, unknown, tenant)                                                             // a schema that the registry does not have
	add(own, value, tenant, kgo.RecordHeader{Key: schemas.HeaderBatch, Value: []byte{1}}) // a malformed header
	add(own, nobody, tenant)                                                              // an item with defects
	c.Produce(records...)
	account := harness.References(&c.Parts, schemas.Accounts, "bad", &schemas.Account{ID: harness.HexID(), Number: "N"})[0]
	c.Produce(
		&kgo.Record{Topic: schemas.Accounts, Key: []byte("bad/another id"), Headers: []kgo.RecordHeader{schemas.TenantHeader("bad")}, Value: account.Value},
		&kgo.Record{Topic: schemas.Accounts, Key: []byte("bad/x"), Headers: []kgo.RecordHeader{schemas.TenantHeader("bad")}, Value: []byte("not Avro")},
		account,
	)
	// What upstream systems write keeps the rules of what comes in by HTTP.
	c.Produce(slices.Concat(
		harness.References(&c.Parts, schemas.Accounts, "bad", &schemas.Account{ID: harness.HexID(), Number: " "}),
		harness.References(&c.Parts, schemas.Accounts, "bad", &schemas.Account{ID: harness.HexID(), Number: "\xff"}),
		harness.References(&c.Parts, schemas.OrderLines, "bad", &schemas.OrderLine{ID: "L", Customer: -5, Product: "P", OrderedOn: time.Now()}),
		harness.References(&c.Parts, schemas.OrderLines, "bad", &schemas.OrderLine{ID: "M", Customer: 5, Product: "P", OrderedOn: time.Now()}),
	)...)
	proved(t, &c.Parts, nil)

	counts := c.SQL("SELECT source_topic, reason_code, count(), uniqExact(source_topic, source_partition, source_offset) FROM dead_letters GROUP BY ALL ORDER BY ALL")
	want := "accounts\tinvalid\t1\t1\naccounts\tkey_mismatch\t1\t1\naccounts\tmissing\t1\t1\naccounts\tundecodable\t1\t1\norder_lines\tout_of_range\t1\t1\nownership\tbad_header\t4\t4\nownership\ttenant_missing\t4\t4\nownership\tundecodable\t16\t16\nownership\tunknown_schema\t4\t4"
	if diff := cmp.Diff(want, counts); diff != "" {
		t.Errorf("dead letters: want (-), got (+)\n%s", diff)
	}
	// The bytes as they were produced.
	for name, value := range map[string][]byte{"not Avro": []byte("not Avro"), "cut off": value[:len(value)-2], "unknown schema": unknown} {
		if got := c.SQL("SELECT count() FROM dead_letters WHERE source_topic = 'ownership' AND value = unhex('" + hex.EncodeToString(value) + "')"); got != "4" {
			t.Errorf("%s dead letters have the bytes of %q", got, name)
		}
	}
	if got := c.SQL("SELECT reason_code, reason_field, format, count() FROM unprocessed WHERE original = unhex('" + hex.EncodeToString(nobody) + "') GROUP BY ALL"); got != "['missing','out_of_range']\t['user_name','quantity']\tavro\t4" {
		t.Errorf("unprocessed: %s", got)
	}
	if got := c.SQL("SELECT count(), max(quantity) FROM ownership"); got != "32\t32" {
		t.Errorf("good items: %s", got)
	}
	if got := c.SQL("SELECT id FROM order_lines WHERE tenant = 'bad'"); got != "M" {
		t.Errorf("order lines: %s", got)
	}
	if got := c.SQL("SELECT number FROM accounts WHERE tenant = 'bad' ORDER BY number"); got != "ACR-1\nN" {
		t.Errorf("accounts: %s", got)
	}
}

// An analyst reads the rows of one tenant, under every name that is read, and changes nothing.
func TestAnalystSeesOneTenant(t *testing.T) {
	if stack.OnApache() || !stack.OwnClickHouse() {
		t.Skip("has nothing to do with the broker, and is about users in the configuration of the embedded ClickHouse")
	}
	up := harness.StartUp(t)
	const other = "second"
	password := strings.TrimSpace(up.Counterfoil("", "analysts", "create", "--tenant", other, "--name", "second_reports", "--data", up.Dir))
	line, err := json.Marshal(row{"id": harness.HexID(), "number": "ACR-1", "name": "Somebody Else"})
	if err != nil {
		t.Fatal(err)
	}
	up.Counterfoil(string(line)+"\n", "send", schemas.Accounts, "-", "--tenant", other)
	key := strings.TrimSpace(up.Counterfoil("", "keys", "create", "--tenant", other, "--note", "test"))
	id, secret, _ := strings.Cut(key, ".")
	for tenant, k := range map[string]harness.Key{"demo": up.Key, other: {Tenant: other, ID: id, Secret: secret}} {
		client := harness.NewClient(up.URL, k)
		client.LogIn(t)
		account := map[string]string{"demo": "ACR0000000077", other: "ACR-1"}[tenant]
		if _, err := client.HelloID(t.Context(), []row{{"UserName": "u", "ProductSKU": "s"}}); err != nil {
			t.Fatal(err)
		}
		r := webRow("1", account)
		r["performed_by_unit_identifier"] = row{"name": "Admin Unit"}
		if _, err := client.Web(t.Context(), []row{r, webRow("2", "NONE")}); err != nil {
			t.Fatal(err)
		}
	}
	up.WaitDrained(time.Minute)
	up.Interrupt()
	up.Restart() // the embedded engine reads its users when it starts

	tables := strings.Split(up.SQL("SELECT DISTINCT table FROM system.columns WHERE database = currentDatabase() AND name = 'tenant' AND NOT endsWith(table, '_state') ORDER BY table"), "\n")
	if len(tables) < 20 {
		t.Fatalf("tables and views with a tenant: %v", tables)
	}
	for _, table := range tables {
		// What an expression does with a row of another tenant, here fail, must not be seen either.
		if _, err := up.SQLAs("second_reports", password, "SELECT count() FROM "+table+" WHERE throwIf(tenant != '"+other+"') = 0"); err != nil {
			t.Errorf("%s: %v", table, err)
		}
		want := up.SQL("SELECT count() FROM " + table + " WHERE tenant = '" + other + "'")
		got, err := up.SQLAs("second_reports", password, "SELECT count(), countIf(tenant != '"+other+"') FROM "+table)
		if err != nil {
			t.Errorf("%s: %v", table, err)
		} else if got != want+"\t0" {
			t.Errorf("%s: the analyst sees %s (rows, of others), the tenant has %s", table, strings.ReplaceAll(got, "\t", ", "), want)
		}
	}
	for query, see := range map[string]string{
		"SELECT number FROM accounts":                                 "ACR-1",
		"SELECT quantity FROM ownership_current":                      "1",
		"SELECT DISTINCT tenant FROM outcomes":                        other,
		"SELECT count() > 0 FROM batch_status":                        "1",
		"SELECT sum(items) > 0 FROM unprocessed_by_reason":            "1",
		"SELECT count() FROM ownership":                               "1",
		"SELECT count() FROM ownership_current WHERE tenant = 'demo'": "0",
		"SELECT count() > 20 FROM system.tables":                      "1",
		"SELECT DISTINCT database FROM system.tables":                 "counterfoil_analyst_second_reports",
	} {
		if got, err := up.SQLAs("second_reports", password, query); err != nil || got != see {
			t.Errorf("%s: %q, %v; want %s", query, got, err, see)
		}
	}
	for _, query := range []string{
		"SELECT count() FROM counterfoil.ownership",
		"SELECT count() FROM counterfoil.accounts_state",
		"SELECT count() FROM counterfoil.ownership_current",
		"SELECT tenant FROM mergeTreeIndex('counterfoil', 'ownership')",
		"SELECT tenant FROM mergeTreeIndex('counterfoil', 'accounts_state')",
		"SELECT tenant FROM merge('counterfoil', 'ownership')",
		"SELECT count() FROM counterfoil_analyst_demo_analyst.ownership",
		"INSERT INTO counterfoil.ownership_state (tenant) VALUES ('second')",
		"INSERT INTO ownership (tenant) VALUES ('second')",
		"DROP TABLE ownership",
		"ALTER TABLE ownership DELETE WHERE 1",
		"CREATE TABLE mine (x Int8) ENGINE = Memory",
	} {
		if got, err := up.SQLAs("second_reports", password, query); err == nil {
			t.Errorf("%s is allowed: %s", query, got)
		}
	}
	if _, err := up.SQLAs("second_reports", "wrong", "SELECT 1"); err == nil {
		t.Error("any password will do")
	}
}
