package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/harness"
	"github.com/counterfoil/counterfoil/test/stack"
)

// This file tests keys, send, tail and the demo data as they are called, against a broker and a registry.

func TestMain(m *testing.M) { harness.Main(m) }

// tools is a prepared Kafka and registry, and the environment in which commands find them.
type tools struct {
	broker   *stack.Broker
	registry *schemas.Registry
	client   *kgo.Client
	environ  []string
}

func newTools(t *testing.T) *tools {
	t.Helper()
	broker, url := stack.Fake(t), stack.FakeRegistry(t)
	registry, err := schemas.NewRegistry(schemas.RegistryConfig{URL: []string{url}, ConfirmAfter: time.Second, RememberFor: time.Minute}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := registry.Register(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	for _, topic := range schemas.Topics() {
		partitions := int32(3)
		if topic.Partitions > 0 {
			partitions = int32(topic.Partitions)
		}
		broker.CreateTopic(t, topic.Name, partitions)
	}
	client, err := kgo.NewClient(append(broker.Opts(), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return &tools{broker: broker, registry: registry, client: client,
		environ: []string{"KAFKA_BROKERS=" + strings.Join(broker.Addrs, ","), "SCHEMA_REGISTRY_URL=" + url}}
}

// call runs a command as main does.
func (x *tools) call(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	code = run(ctx, &app{stdin: strings.NewReader(stdin), stdout: &out, stderr: &errs, environ: x.environ}, args)
	return code, out.String(), errs.String()
}

// good runs a command that must succeed and returns what it printed.
func (x *tools) good(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	code, out, errs := x.call(t, stdin, args...)
	if code != 0 {
		t.Fatalf("counterfoil %s: exit code %d: %s", strings.Join(args, " "), code, errs)
	}
	return out
}

// records reads a topic to its high watermarks.
func (x *tools) records(t *testing.T, topic string) []*kgo.Record {
	t.Helper()
	starts, ends, err := endOffsets(t.Context(), kadm.NewClient(x.client), topic)
	if err != nil {
		t.Fatal(err)
	}
	var all []*kgo.Record
	err = newTopicReader(x.broker.Opts(), slog.New(slog.DiscardHandler)).read(t.Context(), topic, starts, ends, func(rec *kgo.Record) (bool, error) {
		all = append(all, rec)
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// tailed is a line that tail prints.
type tailed struct {
	Partition int32
	Offset    int64
	Timestamp time.Time
	Key       any
	Headers   map[string]any
	Value     json.RawMessage
	Error     string
	Base64    []byte `json:"value_base64"`
}

func lines[T any](t *testing.T, text string) []T {
	t.Helper()
	var all []T
	for line := range strings.Lines(text) {
		var v T
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		all = append(all, v)
	}
	return all
}

func TestKeys(t *testing.T) {
	x := newTools(t)
	text := strings.TrimSpace(x.good(t, "", "keys", "create", "--tenant", "acme", "--doors", "helloid, crm.com", "--allow-ip", "10.0.0.0/8,::1", "--rate-limit", "20", "--note", "import"))
	if !keyForm.MatchString(text) {
		t.Fatalf("printed %q, not id.secret", text)
	}
	id, secret, _ := strings.Cut(text, ".")
	code, out, errs := x.call(t, "", "keys", "create", "--json", "--tenant", "other")
	if code != 0 || errs != "" {
		t.Fatalf("%d, %s", code, errs)
	}
	other := lines[keyJSON](t, out)[0]
	if !keyForm.MatchString(other.Key) || other.Tenant != "other" || !other.Enabled || other.Doors != nil {
		t.Errorf("created %+v", other)
	}

	// The topic holds a hash, under the key that the reference tables want.
	rec := x.records(t, schemas.APIKeys)[0]
	if got, want := string(rec.Key), "acme/"+id; got != want {
		t.Errorf("record key %q, want %q", got, want)
	}
	if bytes.Contains(rec.Value, []byte(secret)) {
		t.Error("the record holds the secret")
	}

	listed := lines[keyJSON](t, x.good(t, "", "keys", "list", "--json", "--tenant", "acme"))
	doors, ips, rate := []string{"helloid", "crm.com"}, []string{"10.0.0.0/8", "::1"}, int32(20)
	want := []keyJSON{{ID: id, Tenant: "acme", Enabled: true, Doors: &doors, AllowedIPs: &ips, RateLimit: &rate, Note: "import", CreatedAt: listed[0].CreatedAt}}
	if diff := cmp.Diff(want, listed); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if out := x.good(t, "", "keys", "disable", id); !strings.Contains(out, "disabled") {
		t.Errorf("printed %q", out)
	}
	out = x.good(t, "", "keys", "list")
	if !regexp.MustCompile(id+` +acme +disabled +helloid,crm.com +10.0.0.0/8,::1 +20/s`).MatchString(out) || !regexp.MustCompile(other.ID+` +other +enabled +all +any +no limit`).MatchString(out) {
		t.Errorf("listed\n%s", out)
	}
	if got := lines[keyJSON](t, x.good(t, "", "keys", "enable", id, "--json")); !got[0].Enabled || got[0].Note != "import" {
		t.Errorf("enabled %+v", got)
	}
}

func TestKeysSaysWhatIsWrong(t *testing.T) {
	x := newTools(t)
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"", 2, "create, list, disable or enable"},
		{"make", 2, `no action "make"`},
		{"create", 2, "--tenant is missing"},
		{"create --tenant a/b", 2, "without slashes"},
		{"create --tenant a --doors side", 2, `door "side" is not one of`},
		{"create --tenant a --allow-ip 300.1.1.1", 2, "300.1.1.1"},
		{"create --tenant a --rate-limit -1", 2, "--rate-limit is -1"},
		{"create --tenant a --colour red", 2, "colour"},
		{"list --note x", 2, "--note does not belong to keys list"},
		{"disable", 2, "takes one key id"},
		{"disable nobody", 1, "counterfoil keys list shows all"},
		{"disable AB12cd.0123456789012345678901", 1, "the part before the point: AB12cd"},
	} {
		code, out, errs := x.call(t, "", append([]string{"keys"}, strings.Fields(c.args)...)...)
		if code != c.code || !strings.Contains(errs, c.want) || out != "" {
			t.Errorf("keys %s: code %d, out %q, %s", c.args, code, out, errs)
		}
	}
	if n := len(x.records(t, schemas.APIKeys)); n != 0 {
		t.Errorf("%d keys were written", n)
	}
	if code, out, _ := x.call(t, "", "keys", "create", "--help"); code != 0 || !strings.Contains(out, "counterfoil keys disable") {
		t.Errorf("help: code %d, %s", code, out)
	}
}

func TestSendItems(t *testing.T) {
	x := newTools(t)
	in := "\ufeff" + `{"ref":"A-1","kind":"web","account":{"number":"ACR1"},"performed_on":"2016-06-22T15:00:00Z","website":"www.crm.com"}

{"ref":6,"kind":"financial_achievement","amount":12.50}
{"kind":"web"}
`
	out := x.good(t, in, "send", "customer_events", "-", "--tenant", "acme", "--ref-field", "ref")
	if !strings.HasPrefix(out, "sent 3 records to customer_events in ") {
		t.Errorf("printed %q", out)
	}
	decoder := schemas.NewDecoder[schemas.CustomerEvent](x.registry, schemas.CustomerEventSchema)
	refs := map[string]string{}
	for _, rec := range x.records(t, schemas.KindCustomerEvents) {
		env, err := schemas.ParseEnvelope(rec.Headers)
		if err != nil || env.Tenant != "acme" || rec.Key != nil {
			t.Errorf("%+v, %v, key %q", env, err, rec.Key)
		}
		var e schemas.CustomerEvent
		for err = schemas.ErrSchemaPending; errors.Is(err, schemas.ErrSchemaPending); {
			err = decoder.Decode(rec.Value, &e)
		}
		if err != nil {
			t.Fatal(err)
		}
		ref := "none"
		if env.Ref != nil {
			ref = *env.Ref
		}
		refs[ref] = e.Kind
		if e.Amount != nil {
			refs[ref] += " " + e.Amount.String()
		}
	}
	if diff := cmp.Diff(map[string]string{"A-1": "web", "6": "financial_achievement 12.5", "none": "web"}, refs); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSendPutsKeyedItemsWhereTheyAreJudged(t *testing.T) {
	x := newTools(t)
	var in strings.Builder
	for _, user := range []string{"Jane", "JANE", "Joe", "Straße", "STRASSE"} {
		for _, n := range []string{"1", "2"} {
			in.WriteString(`{"user_name":"` + user + `","product_sku":"a1","quantity":` + n + "}\n")
		}
	}
	x.good(t, in.String(), "send", "ownership", "-", "--tenant", "acme")
	x.good(t, `{"referred":{"number":"RP1"}}`+"\n"+`{"referred":{"number":"RP2"}}`, "send", "referrals", "-", "--tenant", "acme")
	for _, topic := range []string{"ownership", "referrals"} {
		keys := map[string]bool{}
		for _, rec := range x.records(t, topic) {
			keys[string(rec.Key)] = true
			if want := schemas.Partition(rec.Key, 3); rec.Partition != want {
				t.Errorf("%s: key %q lies in partition %d, want %d", topic, rec.Key, rec.Partition, want)
			}
		}
		want := map[string]bool{"acme\x00jane\x00a1": true, "acme\x00joe\x00a1": true, "acme\x00strasse\x00a1": true}
		if topic == "referrals" {
			want = map[string]bool{"acme": true}
		}
		if diff := cmp.Diff(want, keys); diff != "" {
			t.Errorf("%s (-want +got):\n%s", topic, diff)
		}
	}
}

func TestSendReferencesAndDeleteThem(t *testing.T) {
	x := newTools(t)
	file := filepath.Join(t.TempDir(), "kpis.jsonl")
	if err := os.WriteFile(file, []byte(`{"id":"A","name":"Visits"}`+"\n"+`{"id":"B","name":"Calls"}`+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	x.good(t, "", "send", "--tenant", "acme", "kpis", file)
	x.good(t, "", "send", "kpis", file, "--tenant", "acme", "--delete", "--skip", "1")
	var got []string
	for _, rec := range x.records(t, "kpis") {
		got = append(got, string(rec.Key)+" "+map[bool]string{true: "deleted", false: "there"}[rec.Value == nil])
	}
	if diff := cmp.Diff([]string{"acme/A there", "acme/B there", "acme/B deleted"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSendRefusesAChunkWithABadLine(t *testing.T) {
	x := newTools(t)
	good := `{"id":"A","name":"n"}` + "\n"
	code, _, errs := x.call(t, good+`{"id":"B","nam":"n"}`+"\n"+good+"{\n"+`{"name":"n"}`+"\n", "send", "kpis", "-", "--tenant", "acme")
	for _, want := range []string{"line 2: nam is not a field of KPI; did you mean name?\n", "line 2: name is missing",
		"line 4: is not valid JSON: it ends too early\n", "line 5: id is missing", "standard input has 3 lines that are not as the schema wants them, named above: nothing was sent"} {
		if !strings.Contains(errs, want) {
			t.Errorf("%q is not in %s", want, errs)
		}
	}
	if n := len(x.records(t, "kpis")); code != 1 || n != 0 {
		t.Errorf("exit code %d, %d records", code, n)
	}

	// A bad line in the second chunk: the first was sent, and --skip goes on behind it.
	long := strings.Repeat(good, chunkLines+5)
	code, _, errs = x.call(t, long+"{}\n", "send", "kpis", "-", "--tenant", "acme")
	for _, want := range []string{"line 10006: id is missing", "sent 10,000 records to kpis", "nothing from line 10001 on was sent", "--skip 10000"} {
		if !strings.Contains(errs, want) {
			t.Errorf("%q is not in %s", want, errs)
		}
	}
	if n := len(x.records(t, "kpis")); code != 1 || n != chunkLines {
		t.Errorf("exit code %d, %d records", code, n)
	}
	x.good(t, long, "send", "kpis", "-", "--tenant", "acme", "--skip", "10000")
	if n := len(x.records(t, "kpis")); n != chunkLines+5 {
		t.Errorf("%d records after going on", n)
	}
}

func TestSendThatIsInterruptedSaysWhatWasSent(t *testing.T) {
	x := newTools(t)
	out, in := io.Pipe()
	ctx, stop := context.WithCancel(t.Context())
	var errs bytes.Buffer
	ended := make(chan int)
	go func() {
		ended <- run(ctx, &app{stdin: out, stdout: io.Discard, stderr: &errs, environ: x.environ}, []string{"send", "kpis", "-", "--tenant", "acme"})
	}()
	if _, err := io.WriteString(in, `{"id":"A","name":"n"}`+"\n"); err != nil {
		t.Fatal(err)
	}
	for len(x.records(t, "kpis")) == 0 { // a line that trickles in is sent although the input has not ended
		time.Sleep(20 * time.Millisecond)
	}
	stop()
	if code := <-ended; code != 1 || !strings.Contains(errs.String(), "interrupted: sent 1 records to kpis") || !strings.Contains(errs.String(), "--skip 1") {
		t.Errorf("exit code %d, %s", code, errs.String())
	}
	in.Close()
}

func TestSendSaysWhatIsWrong(t *testing.T) {
	x := newTools(t)
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"kpis", 2, "a topic and a file"},
		{"kpis - --tenant", 2, "flag needs an argument"},
		{"kpis -", 2, "--tenant is missing"},
		{"kpi - --tenant a", 2, `there is no topic "kpi"; send to one of ownership, customer_events, referrals, sales, transactions, calls, order_lines, invoice_lines, stock, accounts`},
		{"batches - --tenant a", 2, "written by Counterfoil alone"},
		{"ownership.processed - --tenant a", 2, "written by Counterfoil alone"},
		{"api_keys - --tenant a", 2, "counterfoil keys"},
		{"ownership - --tenant a --delete", 2, "--delete is for reference and fact topics"},
		{"kpis - --tenant a --ref-field ref", 2, "--ref-field is for items"},
		{"kpis - --tenant a --skip -1", 2, "--skip is -1"},
		{"kpis /no/such/file --tenant a", 1, "no such file"},
	} {
		code, _, errs := x.call(t, "", append([]string{"send"}, strings.Fields(c.args)...)...)
		if code != c.code || !strings.Contains(errs, c.want) {
			t.Errorf("send %s: code %d, %s", c.args, code, errs)
		}
	}
	if code, out, _ := x.call(t, "", "send", "kpis", "--help"); code != 0 || !strings.Contains(out, "--ref-field") {
		t.Errorf("help: code %d, %s", code, out)
	}

	big := `{"id":"A","name":"` + strings.Repeat("x", schemas.MaxItemBytes) + `"}`
	if code, _, errs := x.call(t, big, "send", "kpis", "-", "--tenant", "a"); code != 1 || !strings.Contains(errs, "line 1: has 1,048,588 bytes when encoded") {
		t.Errorf("code %d, %s", code, errs)
	}
	if code, _, errs := x.call(t, strings.Repeat(" ", maxLine+1), "send", "kpis", "-", "--tenant", "a"); code != 1 || !strings.Contains(errs, "read line 1 of standard input: it is longer than 16,777,216 bytes") {
		t.Errorf("code %d, %s", code, errs)
	}

	bare := *x
	bare.environ = []string{x.environ[0], "SCHEMA_REGISTRY_URL=" + stack.FakeRegistry(t)}
	if code, _, errs := bare.call(t, "", "send", "kpis", "-", "--tenant", "a"); code != 1 || !strings.Contains(errs, "run counterfoil migrate first") {
		t.Errorf("no schema: code %d, %s", code, errs)
	}
	bare.environ = []string{"KAFKA_BROKERS=" + strings.Join(stack.Fake(t).Addrs, ","), x.environ[1]}
	if code, _, errs := bare.call(t, "", "send", "kpis", "-", "--tenant", "a"); code != 1 || !strings.Contains(errs, "run counterfoil migrate first") {
		t.Errorf("no topic: code %d, %s", code, errs)
	}
}

func TestTail(t *testing.T) {
	x := newTools(t)
	var in strings.Builder
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"} {
		in.WriteString(`{"id":"` + name + `","name":"n"}` + "\n")
	}
	x.good(t, in.String(), "send", "kpis", "-", "--tenant", "acme")
	x.good(t, `{"id":"z","name":"n"}`, "send", "kpis", "-", "--tenant", "other")
	x.good(t, `{"id":"b"}`, "send", "kpis", "-", "--tenant", "acme", "--delete")
	// An aborted record, and the markers of transactions at the end: the high watermark is still reached.
	produceInTransaction(t, x, kgo.TryAbort, &kgo.Record{Topic: "kpis", Key: []byte("acme/x"), Value: []byte("never")})
	produceInTransaction(t, x, kgo.TryCommit, &kgo.Record{Topic: "kpis", Key: []byte{0xff}, Value: []byte("junk"),
		Headers: []kgo.RecordHeader{{Key: "tenant", Value: []byte("acme")}, {Key: "raw", Value: []byte{0xfe}}}})

	ids := func(args ...string) string {
		var got []string
		for _, l := range lines[tailed](t, x.good(t, "", append([]string{"tail", "kpis"}, args...)...)) {
			var v *struct{ ID string }
			switch {
			case l.Error != "":
				got = append(got, "junk")
			case json.Unmarshal(l.Value, &v) == nil && v == nil:
				got = append(got, "-"+strings.TrimPrefix(l.Key.(string), "acme/"))
			default:
				got = append(got, v.ID)
			}
		}
		return strings.Join(got, " ")
	}
	for args, want := range map[string]string{
		"":                              "f g h i j k l z -b junk",
		"-n 2":                          "-b junk",
		"-n 0":                          "",
		"-n 100":                        "a b c d e f g h i j k l z -b junk",
		"--from start":                  "a b c d e f g h i j k l z -b junk",
		"--from start -n 3":             "a b c",
		"--from start -n 0":             "",
		"--tenant other":                "z",
		"--tenant acme -n 3":            "l -b junk",
		"--tenant nobody":               "",
		"--from start --tenant other":   "z",
		"--from start -n 1 --tenant xx": "",
	} {
		if got := ids(strings.Fields(args)...); got != want {
			t.Errorf("tail %s: %s, want %s", args, got, want)
		}
	}

	all := lines[tailed](t, x.good(t, "", "tail", "kpis"))
	junk, kpi := all[len(all)-1], all[0]
	if !strings.Contains(junk.Error, "Confluent wire format") || string(junk.Base64) != "junk" || junk.Value != nil {
		t.Errorf("junk: %+v", junk)
	}
	if diff := cmp.Diff(map[string]any{"tenant": "acme", "raw": map[string]any{"base64": "/g=="}}, junk.Headers); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
	if kpi.Key != "acme/f" || kpi.Offset != 5 || time.Since(kpi.Timestamp) > time.Minute || string(kpi.Value) != `{"id":"f","name":"n","alternative_code":null}` {
		t.Errorf("kpi: %+v", kpi)
	}

	// Unknown schema ids, and topics that are not ours.
	x.broker.CreateTopic(t, "theirs", 2)
	if err := x.client.ProduceSync(t.Context(), &kgo.Record{Topic: "theirs", Value: []byte{0, 0, 0, 9, 9, 1}}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if got := lines[tailed](t, x.good(t, "", "tail", "theirs")); len(got) != 1 || got[0].Error != "the registry has no schema with id 2313" {
		t.Errorf("unknown schema: %+v", got)
	}
	for args, want := range map[string]string{"nothing": "topic nothing does not exist: ours are batches, ownership,", "kpis --from middle": `--from is "middle"`, "": "it takes one topic", "kpis -n -2": "-n is -2"} {
		if code, _, errs := x.call(t, "", append([]string{"tail"}, strings.Fields(args)...)...); code == 0 || !strings.Contains(errs, want) {
			t.Errorf("tail %s: code %d, %s", args, code, errs)
		}
	}
}

// produceInTransaction ends a transaction with one record.
func produceInTransaction(t *testing.T, x *tools, end kgo.TransactionEndTry, rec *kgo.Record) {
	t.Helper()
	client, err := kgo.NewClient(append(x.broker.Opts(), kgo.TransactionalID("tail-test"))...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := client.ProduceSync(t.Context(), rec).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := client.EndTransaction(t.Context(), end); err != nil {
		t.Fatal(err)
	}
}

// A transaction that nobody ends does not hold a command up for ever: it says what it waited for.
func TestReadingEndsBeforeAnOpenTransaction(t *testing.T) {
	x := newTools(t)
	x.produce(t, x.client, schemas.KindOwnership, 1, "before")
	x.beginTransaction(t, "hanging", schemas.KindOwnership, 1)
	// Another partition goes on growing meanwhile, beyond where it is to be read.
	busy, stop := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	x.produce(t, x.client, schemas.KindOwnership, 0, "busy")
	starts, ends, err := endOffsets(t.Context(), kadm.NewClient(x.client), schemas.KindOwnership)
	if err != nil {
		t.Fatal(err)
	}
	writing.Go(func() {
		for busy.Err() == nil {
			x.produce(t, x.client, schemas.KindOwnership, 0, "busy")
			time.Sleep(20 * time.Millisecond)
		}
	})
	read := 0
	var log strings.Builder
	r := topicReader{kafka: x.broker.Opts(), log: slog.New(slog.NewTextHandler(&log, nil)), notice: 100 * time.Millisecond, patience: time.Second}
	err = r.read(t.Context(), schemas.KindOwnership, starts, ends, func(*kgo.Record) (bool, error) {
		read++
		return true, nil
	})
	if want := "topic ownership partitions [1] can be read, though they go on to offset 2 in partition 1"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
	stop()
	writing.Wait()
	if read != 2 {
		t.Errorf("%d records were read, 2 lie before the transaction", read)
	}
	if notices := strings.Count(log.String(), "waiting for Kafka, or for the end of a transaction"); notices != 1 {
		t.Errorf("it was told %d times, not once, what is waited for:\n%s", notices, log.String())
	}
	// Who follows a topic waits for as long as nothing comes.
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	err = r.read(ctx, schemas.KindOwnership, ends, slices.Repeat([]int64{noEnd}, len(ends)), func(*kgo.Record) (bool, error) { return true, nil })
	if !errors.Is(err, context.DeadlineExceeded) || strings.Count(log.String(), "waiting for Kafka") > 1 {
		t.Errorf("following ended with %v\n%s", err, log.String())
	}
}

func TestTailFollows(t *testing.T) {
	x := newTools(t)
	x.good(t, `{"id":"a","name":"n"}`, "send", "kpis", "-", "--tenant", "acme")
	out, in := io.Pipe()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan int)
	go func() {
		code := run(ctx, &app{stdout: in, stderr: os.Stderr, environ: x.environ}, []string{"tail", "kpis", "--follow"})
		in.Close()
		ended <- code
	}()
	dec := json.NewDecoder(out)
	for _, want := range []string{"acme/a", "acme/b", "acme/c"} {
		var l tailed
		if err := dec.Decode(&l); err != nil || l.Key != want {
			t.Fatalf("%v, %+v, want %s", err, l, want)
		}
		if next := map[string]string{"acme/a": "b", "acme/b": "c"}[want]; next != "" {
			x.good(t, `{"id":"`+next+`","name":"n"}`, "send", "kpis", "-", "--tenant", "acme")
		}
	}
	stop()
	if code := <-ended; code != 0 {
		t.Errorf("exit code %d after Ctrl-C", code)
	}
}

func TestDemoDataMakesThePrintedExamplesTrue(t *testing.T) {
	x := newTools(t)
	for range 2 { // filling again does no harm
		if err := fillDemo(t.Context(), x.client, x.registry); err != nil {
			t.Fatal(err)
		}
	}
	// values collects a member of each live record.
	values := func(topic, member string) []string {
		live := map[string]string{}
		for _, l := range lines[tailed](t, x.good(t, "", "tail", topic, "--from", "start", "--tenant", "demo")) {
			var v map[string]any
			if err := json.Unmarshal(l.Value, &v); err != nil {
				t.Fatal(err)
			}
			id, _ := v["id"].(string)
			if !regexp.MustCompile(`^[0-9A-F]{32}$`).MatchString(id) || l.Key != "demo/"+id {
				t.Errorf("%s: key %s, id %s", topic, l.Key, id)
			}
			live[id], _ = v[member].(string)
		}
		var all []string
		for _, v := range live {
			all = append(all, v)
		}
		return all
	}
	for _, c := range []struct {
		topic, member string
		has, hasNot   []string
	}{
		{"accounts", "number", strings.Fields("ACR0000000077 ACR0000000228 ACR0000000164 ACR0000000050 ACR0000000020 ACR0000000218 ACR0000000226"),
			strings.Fields("ACR000177 ACR0097 ACR00008 ACR0000058 ACR00045750 ACR00670000 ACR00045000 ACR00670040 ACR45000 ACR040")},
		{"participants", "number", strings.Fields("RP0000000017 RP0000000010 RP0000000014 RP0000000012 RP0000000004"), nil},
		{"units", "name", []string{"Admin Unit"}, nil},
		{"classifications", "name", []string{"Customer Feedback 3", "Financial Achievement 1", "Financial Achievement 2", "Financial Achievement 3"}, nil},
		{"classifications", "kind", []string{"achievement", "financial_achievement", "financial_statement"}, nil},
		{"products", "code", []string{"Serendipity", "Bronze"}, nil},
		{"payment_medium_types", "name", nil, nil}, {"payment_medium_brands", "name", nil, nil}, {"kpis", "name", nil, nil}, {"invoices", "number", nil, nil},
	} {
		have := values(c.topic, c.member)
		if len(have) == 0 {
			t.Errorf("%s is empty", c.topic)
		}
		for _, v := range c.has {
			if !slices.Contains(have, v) {
				t.Errorf("%s has no %s %q", c.topic, c.member, v)
			}
		}
		for _, v := range c.hasNot {
			if slices.Contains(have, v) {
				t.Errorf("%s has %s %q", c.topic, c.member, v)
			}
		}
	}
	referrals := x.records(t, schemas.KindReferrals)
	if len(referrals) != 2 {
		t.Fatalf("%d referrals after two fills", len(referrals))
	}
	if got, want := referrals[0].Partition, schemas.Partition([]byte("demo"), 3); got != want {
		t.Errorf("the referral lies in partition %d: another in %d might be judged before it", got, want)
	}
}

func TestDemoKeyIsKept(t *testing.T) {
	dir := t.TempDir()
	id, secret, record, created, err := demoKey(dir)
	if err != nil || !created || !keyForm.MatchString(id+"."+secret) {
		t.Fatalf("%s.%s, created %v, %v", id, secret, created, err)
	}
	info, err := os.Stat(filepath.Join(dir, demoKeyFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	id2, secret2, again, created, err := demoKey(dir)
	if err != nil || created || id2 != id || secret2 != secret {
		t.Fatalf("second start: %s.%s, created %v, %v", id2, secret2, created, err)
	}
	record.CreatedAt, again.CreatedAt = time.Time{}, time.Time{}
	if diff := cmp.Diff(record, again); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := os.WriteFile(filepath.Join(dir, demoKeyFile), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, _, _, err := demoKey(dir); err == nil || !strings.Contains(err.Error(), "delete it") {
		t.Errorf("broken file: %v", err)
	}
}
