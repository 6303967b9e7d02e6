package harness

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/stack"
)

// Parts is how a test reaches Kafka, the registry and ClickHouse. Its methods are for one goroutine.
type Parts struct {
	Kafka    []kgo.Opt
	Registry *schemas.Registry
	CH       *stack.CH
	Database string // of the product, in ClickHouse

	t        testing.TB
	settings []string // environment with which a subcommand reaches the same parts
	client   *kgo.Client
	encoders map[string]*schemas.Encoder
	conn     driver.Conn
}

// Key is a caller's key.
type Key struct{ Tenant, ID, Secret string }

// String is the form in which callers send it.
func (k Key) String() string { return k.ID + "." + k.Secret }

// Client is a producer that sets each record's partition itself, as our own do.
func (p *Parts) Client() *kgo.Client {
	p.t.Helper()
	if p.client == nil {
		client, err := kgo.NewClient(append(p.Kafka, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(4<<20))...)
		if err != nil {
			p.t.Fatal(err)
		}
		p.client = client
		p.t.Cleanup(client.Close)
	}
	return p.client
}

// Produce writes records as they are, to the partitions that they name, and waits for their acknowledgement.
func (p *Parts) Produce(records ...*kgo.Record) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	if err := p.Client().ProduceSync(ctx, records...).FirstErr(); err != nil {
		p.t.Fatalf("produce to %s: %v", records[0].Topic, err)
	}
}

// Encode encodes a value of a topic as an upstream producer does.
func (p *Parts) Encode(topic string, v any) []byte {
	p.t.Helper()
	encoder := p.encoders[topic]
	if encoder == nil {
		var err error
		if encoder, err = p.Registry.Encoder(p.t.Context(), topic); err != nil {
			p.t.Fatal(err)
		}
		if p.encoders == nil {
			p.encoders = map[string]*schemas.Encoder{}
		}
		p.encoders[topic] = encoder
	}
	value, err := encoder.Append(nil, v)
	if err != nil {
		p.t.Fatalf("encode for %s: %v", topic, err)
	}
	return value
}

// References makes records of a reference or fact topic for a tenant, for [Parts.Produce].
func References[R interface{ OwnID() string }](p *Parts, topic, tenant string, all ...R) []*kgo.Record {
	p.t.Helper()
	records := make([]*kgo.Record, len(all))
	for i, r := range all {
		records[i] = &kgo.Record{Topic: topic, Key: schemas.ReferenceKey(tenant, r.OwnID()), Headers: []kgo.RecordHeader{schemas.TenantHeader(tenant)}, Value: p.Encode(topic, r)}
	}
	return records
}

// CreateKey gives a tenant a key for all doors; change may restrict it.
func (p *Parts) CreateKey(tenant string, change ...func(*schemas.APIKey)) Key {
	p.t.Helper()
	k := Key{Tenant: tenant, ID: rand.Text()[:6], Secret: rand.Text()[:22]}
	hash := sha256.Sum256([]byte(k.Secret))
	record := &schemas.APIKey{ID: k.ID, Tenant: tenant, SecretHash: hash[:], Enabled: true, Note: "test", CreatedAt: time.Now().UTC().Truncate(time.Millisecond)}
	for _, f := range change {
		f(record)
	}
	p.Produce(References(p, schemas.APIKeys, tenant, record)...)
	return k
}

// CopyReferences gives other tenants all reference records that a tenant has, but its keys.
func (p *Parts) CopyReferences(from string, to ...string) {
	p.t.Helper()
	var topics []string
	for _, topic := range schemas.Topics() {
		if topic.Role == schemas.RoleReference && topic.Name != schemas.APIKeys {
			topics = append(topics, topic.Name)
		}
	}
	var copies []*kgo.Record
	for _, r := range p.ReadTopics(topics...) {
		id, ok := bytes.CutPrefix(r.Key, []byte(from+"/"))
		if !ok {
			continue
		}
		for _, tenant := range to {
			copies = append(copies, &kgo.Record{Topic: r.Topic, Key: schemas.ReferenceKey(tenant, string(id)), Headers: []kgo.RecordHeader{schemas.TenantHeader(tenant)}, Value: r.Value})
		}
	}
	p.Produce(copies...)
}

// Counterfoil runs a subcommand against these parts, with stdin as its input, and returns what it printed on standard output. The test ends
// when it fails.
func (p *Parts) Counterfoil(stdin string, args ...string) string {
	p.t.Helper()
	out, err := TryRun(p.t.Context(), Binary(p.t), p.settings, stdin, args...)
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

// Settings is the environment in which a subcommand reaches these parts.
func (p *Parts) Settings() []string { return slices.Clone(p.settings) }

// Conn is a native connection to ClickHouse in the product's database.
func (p *Parts) Conn() driver.Conn {
	p.t.Helper()
	if p.conn == nil {
		conn, err := clickhouse.Open(p.CH.Options(p.t, p.Database))
		if err != nil {
			p.t.Fatal(err)
		}
		p.conn = conn
		p.t.Cleanup(func() { conn.Close() })
	}
	return p.conn
}

// SQL runs a query in the product's database and returns its rows as lines of tab separated values. The test ends when it fails.
func (p *Parts) SQL(query string) string {
	p.t.Helper()
	out, err := p.SQLAs(p.CH.User, p.CH.Password, query)
	if err != nil {
		p.t.Fatalf("%s: %v", query, err)
	}
	return out
}

// SQLAs runs a query as a user: the administrator in the product's database, others in their own.
func (p *Parts) SQLAs(user, password, query string) (string, error) {
	p.t.Helper()
	params := url.Values{}
	if user == p.CH.User {
		params.Set("database", p.Database)
	}
	return p.CH.QueryAs(p.t, user, password, query, params)
}

// Eventually calls f until it returns "" or the time is up, which fails the test with what it returned last.
func Eventually(t testing.TB, limit time.Duration, f func() string) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		problem := f()
		if problem == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still so after %s: %s", limit, problem)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// HexID is a random id as CRM systems have them: 32 upper-case hex digits.
func HexID() string {
	var b [16]byte
	rand.Read(b[:])
	return strings.ToUpper(hex.EncodeToString(b[:]))
}
