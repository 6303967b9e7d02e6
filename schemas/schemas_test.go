package schemas

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/linkedin/goavro/v2"
	"github.com/shopspring/decimal"
	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"
)

// goTypes pairs every schema with the Go type that mirrors it.
var goTypes = []struct {
	schema *Schema
	value  any
}{
	{BatchHeaderSchema, BatchHeader{}}, {OwnershipSchema, Ownership{}}, {OwnershipProcessedSchema, OwnershipProcessed{}},
	{OwnershipStateSchema, OwnershipState{}}, {CustomerEventSchema, CustomerEvent{}}, {EventProcessedSchema, EventProcessed{}},
	{ReferralSchema, Referral{}}, {ReferralProcessedSchema, ReferralProcessed{}}, {ReferralStateSchema, ReferralState{}},
	{UnprocessedSchema, Unprocessed{}}, {DeadLetterSchema, DeadLetter{}}, {AccountSchema, Account{}}, {ParticipantSchema, Participant{}},
	{UnitSchema, Unit{}}, {ClassificationSchema, Classification{}}, {ProductSchema, Product{}}, {PaymentMediumTypeSchema, PaymentMediumType{}},
	{PaymentMediumBrandSchema, PaymentMediumBrand{}}, {KPISchema, KPI{}}, {InvoiceSchema, Invoice{}}, {APIKeySchema, APIKey{}},
	{SaleSchema, Sale{}}, {SaleProcessedSchema, SaleProcessed{}}, {TransactionSchema, Transaction{}},
	{TransactionProcessedSchema, TransactionProcessed{}}, {CustomerSchema, Customer{}}, {CustomerPartSchema, CustomerPart{}},
	{CallSchema, Call{}}, {OrderLineSchema, OrderLine{}}, {InvoiceLineSchema, InvoiceLine{}}, {StockSchema, Stock{}},
	{ReferenceProcessedSchema, ReferenceProcessed{}}, {RequestSchema, Request{}}, {RequestAnswerSchema, RequestAnswer{}}, {AttemptSchema, Attempt{}},
}

// days are the members that hold a day and not an instant.
var days = []string{".TimeOfApproval", ".Date", ".OrderedOn", ".InvoicedOn", ".NextAvailableOn"}

var equal = cmp.Options{
	cmp.Comparer(func(a, b decimal.Decimal) bool { return a.Equal(b) }),
	cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) }),
	cmp.Comparer(func(a, b []byte) bool { return string(a) == string(b) }),
	cmp.Comparer(func(a, b []string) bool { return fmt.Sprint(a) == fmt.Sprint(b) }),
}

// generate fills v with random values; half of the nullable members stay nil.
func generate(r *rand.Rand, v reflect.Value, path string) {
	transaction := strings.HasPrefix(path, "Transaction") // has decimals and instants of its own
	switch v.Interface().(type) {
	case time.Time:
		t := time.UnixMilli(r.Int64N(9_000_000_000_000) - 2_000_000_000_000).UTC()
		switch {
		case slices.ContainsFunc(days, func(day string) bool { return strings.HasSuffix(path, day) }):
			t = t.Truncate(24 * time.Hour)
		case strings.HasSuffix(path, ".TransactionTime"):
			t = t.Add(time.Duration(r.Int64N(1e6)))
		}
		v.Set(reflect.ValueOf(t))
		return
	case decimal.Decimal:
		n := new(big.Int)
		for range 1 + r.IntN(37) {
			n.Add(n.Mul(n, big.NewInt(10)), big.NewInt(r.Int64N(10)))
		}
		if r.IntN(2) == 0 {
			n.Neg(n)
		}
		scale := int32(DecimalScale)
		if transaction {
			scale = TransactionScale
		}
		v.Set(reflect.ValueOf(decimal.NewFromBigInt(n, -scale)))
		return
	case []byte:
		v.SetBytes([]byte(text(r)))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if r.IntN(2) == 0 {
			v.Set(reflect.New(v.Type().Elem()))
			generate(r, v.Elem(), path)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			generate(r, v.Field(i), path+"."+v.Type().Field(i).Name)
		}
	case reflect.Slice:
		n := r.IntN(4)
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			generate(r, v.Index(i), path)
		}
	case reflect.String:
		v.SetString(text(r))
	case reflect.Int32:
		v.SetInt(int64(int32(r.Uint32())))
	case reflect.Int64:
		v.SetInt(int64(r.Uint64()))
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Float64:
		v.SetFloat(r.NormFloat64() * 1e6)
	default:
		panic("no generator for " + v.Type().String())
	}
}

func text(r *rand.Rand) string {
	const runes = "abcXYZ019 _-/\"'\\,{}ΑβγÄé漢🙂\x00"
	all := []rune(runes)
	out := make([]rune, r.IntN(12))
	for i := range out {
		out[i] = all[r.IntN(len(all))]
	}
	return string(out)
}

func TestGoavroReadsWhatWeWriteAndWeReadWhatItWrites(t *testing.T) {
	for _, c := range goTypes {
		t.Run(c.schema.Name(), func(t *testing.T) {
			codec, err := goavro.NewCodec(c.schema.Text())
			if err != nil {
				t.Fatal(err)
			}
			r := rand.New(rand.NewPCG(1, 2))
			for range 200 {
				want := reflect.New(reflect.TypeOf(c.value))
				generate(r, want.Elem(), want.Elem().Type().Name())
				ours, err := c.schema.Avro().AppendEncode(nil, want.Interface())
				if err != nil {
					t.Fatal(err)
				}
				native, rest, err := codec.NativeFromBinary(ours)
				if err != nil || len(rest) > 0 {
					t.Fatalf("goavro reads ours: %v, %d bytes left", err, len(rest))
				}
				theirs, err := codec.BinaryFromNative(nil, native)
				if err != nil {
					t.Fatalf("goavro writes: %v", err)
				}
				got := reflect.New(reflect.TypeOf(c.value))
				if rest, err := c.schema.Avro().Decode(theirs, got.Interface()); err != nil || len(rest) > 0 {
					t.Fatalf("we read goavro's: %v, %d bytes left", err, len(rest))
				}
				if diff := cmp.Diff(want.Interface(), got.Interface(), equal); diff != "" {
					t.Fatalf("round trip through goavro (-want +got):\n%s", diff)
				}
			}
		})
	}
}

// What upstream systems write is bounded and stamped by the broker, whatever it is; what we write has room for more.
func TestTopicsThatOthersWriteAreBoundedAndStamped(t *testing.T) {
	for _, topic := range Topics() {
		size, stamp, compact := maxOwnBytes, "", topic.Role == RoleReference || topic.Role == RoleState
		switch topic.Role {
		case RoleItem, RoleFact, RoleReference, RoleRequests:
			size, stamp = maxInboundBytes, "LogAppendTime"
		}
		if got := topic.Config["max.message.bytes"]; got != strconv.Itoa(size) {
			t.Errorf("%s: max.message.bytes %s, want %d", topic.Name, got, size)
		}
		if got := topic.Config["message.timestamp.type"]; got != stamp {
			t.Errorf("%s: message.timestamp.type %q, want %q", topic.Name, got, stamp)
		}
		if got := topic.Config["cleanup.policy"] == "compact"; got != compact {
			t.Errorf("%s: compacted %t", topic.Name, got)
		}
		tombstones := ""
		if topic.Role == RoleReference {
			tombstones = strconv.Itoa(int((4 * 7 * 24 * time.Hour).Milliseconds()))
		}
		if got := topic.Config["delete.retention.ms"]; got != tombstones {
			t.Errorf("%s: delete.retention.ms %q, want %q", topic.Name, got, tombstones)
		}
	}
}

func TestEveryTopicHasASchemaThatIsCompatibleWithItself(t *testing.T) {
	for _, topic := range Topics() {
		if topic.Role == RoleRequests { // its values are those of other topics
			continue
		}
		if topic.Schema == nil {
			t.Errorf("%s has no schema", topic.Name)
			continue
		}
		if err := avro.CheckCompatibility(topic.Schema.Avro(), topic.Schema.Avro()); err != nil {
			t.Errorf("%s: %v", topic.Name, err)
		}
	}
}

func testRegistry(t *testing.T) (*Registry, *srfake.Registry) {
	t.Helper()
	fake := srfake.New()
	t.Cleanup(fake.Close)
	r, err := NewRegistry(RegistryConfig{URL: []string{fake.URL()}, ConfirmAfter: 200 * time.Millisecond, RememberFor: time.Minute}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return r, fake
}

func TestOutcomeCarriesTheItemsBytesAsTheyCame(t *testing.T) {
	r, _ := testRegistry(t)
	ctx := context.Background()
	if _, err := r.Register(ctx, false); err != nil {
		t.Fatal(err)
	}
	items, err := r.Encoder(ctx, KindOwnership)
	if err != nil {
		t.Fatal(err)
	}
	outcomes, err := r.Encoder(ctx, ProcessedTopic(KindOwnership))
	if err != nil {
		t.Fatal(err)
	}
	user, sku := "J.Doe", "A1"
	want := OwnershipProcessed{Item: Ownership{UserName: &user, ProductSKU: &sku, Clear: []string{}}}
	want.Tenant, want.Quantity, want.AcceptedAt, want.JudgedAt = "demo", 3, time.UnixMilli(0).UTC(), time.UnixMilli(1).UTC()
	item, err := items.Append(nil, &want.Item)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string][]byte{"same writer": item, "other writer": append([]byte{0, 0, 0, 99, 99}, item[5:]...)} {
		out, err := outcomes.AppendWithItem(nil, &want.OwnershipResult, value, &want.Item)
		if err != nil {
			t.Fatal(err)
		}
		var got OwnershipProcessed
		if err := NewDecoder[OwnershipProcessed](r, OwnershipProcessedSchema).Decode(out, &got); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, got, equal); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		var head OwnershipResult
		if err := NewHeadDecoder[OwnershipResult](r, OwnershipProcessedSchema).Decode(out, &head); err != nil {
			t.Fatalf("%s: head: %v", name, err)
		}
		if diff := cmp.Diff(want.OwnershipResult, head, equal); diff != "" {
			t.Errorf("%s: head (-want +got):\n%s", name, diff)
		}
	}
}

func TestReadersResolveOtherWriters(t *testing.T) {
	r, fake := testRegistry(t)
	older := `{"type":"record","name":"KPI","namespace":"counterfoil","fields":[{"name":"id","type":"string"},{"name":"name","type":"string"}]}`
	newer := `{"type":"record","name":"KPI","namespace":"counterfoil","fields":[{"name":"id","type":"string"},{"name":"colour","type":["null","string"],"default":null},{"name":"name","type":"string"},{"name":"alternative_code","type":["null","string"],"default":null}]}`
	for id, text := range map[int]string{71: older, 72: newer} {
		fake.SeedSchema("kpis-value", id-70, id, sr.Schema{Schema: text, Type: sr.TypeAvro})
		codec, err := goavro.NewCodec(text)
		if err != nil {
			t.Fatal(err)
		}
		native := map[string]any{"id": "1", "name": "Visits"}
		if id == 72 {
			native["colour"] = goavro.Union("string", "red")
		}
		data, err := codec.BinaryFromNative([]byte{0, 0, 0, 0, byte(id)}, native)
		if err != nil {
			t.Fatal(err)
		}
		got, err := NewDecoder[KPI](r, KPISchema).Await(t.Context(), data)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(KPI{ID: "1", Name: "Visits"}, got); diff != "" {
			t.Errorf("writer %d (-want +got):\n%s", id, diff)
		}
	}
}

// Avro resolves a timestamp in microseconds to one in milliseconds as if it were a number: another instant.
func TestAnotherUnitOfTimeIsRefusedByName(t *testing.T) {
	r, fake := testRegistry(t)
	d := NewDecoder[CustomerEvent](r, CustomerEventSchema)
	for i, c := range []struct{ unit, want string }{
		{"timestamp-micros", "performed_on is written as timestamp-micros and read as timestamp-millis"},
		{"timestamp-millis", ""},
		{"", ""}, // a number
	} {
		text := CustomerEventSchema.Text()
		other := strings.Replace(text, `"name":"performed_on","type":["null",{"type":"long","logicalType":"timestamp-millis"}]`,
			`"name":"performed_on","type":["null",{"type":"long","logicalType":"`+c.unit+`"}]`, 1)
		if c.unit != "timestamp-millis" && other == text {
			t.Fatal("the schema has another form")
		}
		if c.unit == "" {
			other = strings.ReplaceAll(other, `,"logicalType":""`, "")
		}
		fake.SeedSchema("customer_events-value", i+1, 80+i, sr.Schema{Schema: other, Type: sr.TypeAvro})
		data, err := CustomerEventSchema.Avro().AppendEncode([]byte{0, 0, 0, 0, byte(80 + i)}, &CustomerEvent{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.Await(t.Context(), data)
		var bad *BadRecordError
		if c.want == "" && err != nil || c.want != "" && (!errors.As(err, &bad) || bad.Code != CodeUndecodable || !strings.Contains(bad.Message, c.want)) {
			t.Errorf("%s: %v, want %q", c.unit, err, c.want)
		}
	}
}

// A processor encodes an item anew that another version of its schema was written with, whatever the kind.
func TestOutcomesCarryItemsOfOtherWritersOfEveryKind(t *testing.T) {
	r, _ := testRegistry(t)
	if _, err := r.Register(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	kinds := map[string]struct{ head, item any }{
		KindOwnership:      {&OwnershipResult{}, &Ownership{}},
		KindCustomerEvents: {&EventResult{}, &CustomerEvent{}},
		KindReferrals:      {&ReferralResult{}, &Referral{}},
		KindSales:          {&SaleResult{}, &Sale{}},
		KindTransactions:   {&TransactionResult{}, &Transaction{}},
	}
	for _, topic := range Topics() {
		if topic.Role != RoleItem {
			continue
		}
		kind := topic.Name
		c, ok := kinds[kind]
		if !ok {
			t.Fatalf("%s is not tried", kind)
		}
		outcomes, err := r.Encoder(t.Context(), ProcessedTopic(kind))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := outcomes.AppendWithItem(nil, c.head, []byte{0, 0, 0, 99, 99}, c.item); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func TestUnknownSchemaIsConfirmedBeforeARecordIsBad(t *testing.T) {
	r, fake := testRegistry(t)
	value := []byte{0, 0, 0, 0, 50, 2, 'a'}
	d := NewDecoder[KPI](r, KPISchema)
	start := time.Now()
	_, err := d.Await(t.Context(), value)
	var bad *BadRecordError
	if !errors.As(err, &bad) || bad.Code != CodeUnknownSchema {
		t.Fatalf("got %v, want unknown schema", err)
	}
	if waited := time.Since(start); waited < 200*time.Millisecond {
		t.Errorf("called bad after %v, before the second answer", waited)
	}
	// Remembered: a later record with that id is bad at once.
	if err := d.Decode(value, new(KPI)); !errors.As(err, &bad) {
		t.Errorf("got %v, want the remembered answer", err)
	}
	// A registry that is down marks nothing bad.
	fake.Close()
	value[4] = 51
	for range 50 {
		if err := d.Decode(value, new(KPI)); !errors.Is(err, ErrSchemaPending) {
			t.Fatalf("registry down: got %v, want pending", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := d.Await(ctx, value); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("registry down: got %v, want to wait for it", err)
	}
}

func TestRegisterRefusesIncompatibleSchemasWhateverTheRegistrySays(t *testing.T) {
	r, fake := testRegistry(t)
	fake.SeedSchema("kpis-value", 1, 9, sr.Schema{Type: sr.TypeAvro,
		Schema: `{"type":"record","name":"KPI","namespace":"counterfoil","fields":[{"name":"id","type":"long"}]}`})
	_, err := r.Register(context.Background(), false)
	if err == nil || !strings.Contains(err.Error(), "kpis-value") || !strings.Contains(err.Error(), "nothing was changed") {
		t.Fatalf("got %v", err)
	}
	if _, err := r.client.SchemaByVersion(context.Background(), "accounts-value", -1); err == nil {
		t.Error("another subject was registered although one was refused")
	}
}

func TestRegisterTwiceAddsNothing(t *testing.T) {
	r, _ := testRegistry(t)
	added, err := r.Register(context.Background(), false)
	if err != nil || len(added) != len(Topics())-1 { // the values of requests are those of other topics
		t.Fatalf("first: %d added, %v", len(added), err)
	}
	if added, err = r.Register(context.Background(), false); err != nil || len(added) != 0 {
		t.Fatalf("second: %v added, %v", added, err)
	}
}

func TestDecimalBounds(t *testing.T) {
	nines := strings.Repeat("9", 28)
	for text, fits := range map[string]bool{
		"0": true, "0.1": true, "-19.99": true, "1e2": true, "1e27": true, "1e28": false, nines + ".9999999999": true, "-" + nines + ".9999999999": true,
		"0.00000000001": false, "0.10000000000000000000": true, "1e9999": false, "1e-9999": false, "0e9999": true,
	} {
		d, err := decimal.NewFromString(text)
		if err != nil {
			t.Fatal(err)
		}
		if FitsDecimal(d) != fits {
			t.Errorf("%s: fits = %v, want %v", text, !fits, fits)
		}
	}
}

func TestEnvelopeRoundTrip(t *testing.T) {
	ref := "06"
	for _, want := range []Envelope{
		{Tenant: "demo", Reply: -1, Attempt: 1},
		{Tenant: "demo", Batch: NewBatchKey(), Index: 9999, Reply: 3, Attempt: 2, Ref: &ref, Origin: &Origin{1, 77}, First: &First{NewBatchKey(), 1, 12, time.UnixMilli(1700000000123).UTC()}, TraceParent: "00-a-b-01"},
	} {
		got, err := ParseEnvelope(want.Headers(nil))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	if _, err := ParseEnvelope(nil); !errors.Is(err, ErrTenantMissing) {
		t.Errorf("no tenant: %v", err)
	}
	if _, err := ParseEnvelope([]kgo.RecordHeader{{Key: "tenant", Value: []byte("a")}, {Key: "index", Value: []byte("-1")}}); err == nil {
		t.Error("negative index accepted")
	}
}

func TestReplaysSayWhatTheyAreAReplayOf(t *testing.T) {
	id := strings.Repeat("0a", 16)
	for name, headers := range map[string][]kgo.RecordHeader{
		"attempt without first": {{Key: "attempt", Value: []byte("2")}},
		"first without attempt": {{Key: "first", Value: []byte(id + "/0/5/1700000000000")}},
		"first of the first":    {{Key: "attempt", Value: []byte("1")}, {Key: "first", Value: []byte(id + "/0/5/1700000000000")}},
		"no identity":           {{Key: "attempt", Value: []byte("2")}, {Key: "first", Value: []byte("x/0/5/1700000000000")}},
		"no place":              {{Key: "attempt", Value: []byte("2")}, {Key: "first", Value: []byte(id + "/0/-2/1700000000000")}},
		"no time":               {{Key: "attempt", Value: []byte("2")}, {Key: "first", Value: []byte(id + "/0/5")}},
	} {
		if _, err := ParseEnvelope(append(headers, TenantHeader("acme"))); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	e := Envelope{Tenant: "acme", Batch: NewBatchKey(), First: &First{ID: id}}
	if got := e.ItemID("sales", 3, 1, 99); got != id {
		t.Errorf("a replay is item %s, want %s", got, id)
	}
}

func TestPartitionIsKafkas(t *testing.T) {
	// Values that org.apache.kafka.common.utils.Utils.murmur2 gives, from Kafka's own unit test, masked and modulo 1000.
	for key, hash := range map[string]int32{"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971} {
		if got, want := Partition([]byte(key), 1000), (hash&0x7fffffff)%1000; got != want {
			t.Errorf("%s: partition %d, want %d", key, got, want)
		}
	}
}

func TestFold(t *testing.T) {
	for in, want := range map[string]string{"A1234": "a1234", "straße": "strasse", "ΣΑΣ": "σασ", "abc-1": "abc-1"} {
		if got := Fold(in); got != want {
			t.Errorf("Fold(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestSchemaFilesAreDocumentedJSON(t *testing.T) {
	for _, c := range goTypes {
		var s struct{ Doc string }
		if err := json.Unmarshal([]byte(c.schema.Text()), &s); err != nil || s.Doc == "" {
			t.Errorf("%s: no doc (%v)", c.schema.Name(), err)
		}
	}
}

func TestReferenceKeyAndHeaderNameOneTenant(t *testing.T) {
	header := []kgo.RecordHeader{TenantHeader("acme")}
	for key, c := range map[string]struct {
		headers []kgo.RecordHeader
		code    string
	}{
		"acme/A/1": {header, ""}, "acme/A": {nil, CodeTenantMissing}, "bravo/A": {header, CodeKeyMismatch}, "acme/": {header, CodeKeyMismatch},
		"A": {header, CodeKeyMismatch}, "": {header, CodeKeyMismatch},
	} {
		tenant, own, err := SplitReference(&kgo.Record{Key: []byte(key), Headers: c.headers})
		var bad *BadRecordError
		switch {
		case c.code == "" && (err != nil || tenant != "acme" || own != "A/1"):
			t.Errorf("%q: %q, %q, %v", key, tenant, own, err)
		case c.code != "" && (!errors.As(err, &bad) || bad.Code != c.code):
			t.Errorf("%q: %v, want %s", key, err, c.code)
		}
	}
}
