package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/schemas"
)

// demoTenant is the tenant of the demo data.
const demoTenant = "demo"

// demoFiles are the demo data, a file for each topic, in the form that counterfoil send reads; "today-30" is a day. With them the examples
// that CRM.COM's documentation prints give the printed answers, the sale that Mediahawk's prints matches a call, and Caliq's report has lines.
//
//go:embed demo/*.jsonl
var demoFiles embed.FS

// demoTopics is the order in which the files are sent: the referral last. It is judged after everything acknowledged before it, so that it
// finds its participants; and since it is first in the partition of the tenant's referrals, it is judged before every other one.
var demoTopics = []string{
	schemas.Units, schemas.Classifications, schemas.Products, schemas.PaymentMediumTypes, schemas.PaymentMediumBrands, schemas.KPIs,
	schemas.Invoices, schemas.Accounts, schemas.Participants, schemas.Calls, schemas.Customers, schemas.CustomerParts, schemas.OrderLines,
	schemas.InvoiceLines, schemas.StockLevels, schemas.KindReferrals,
}

// demoDay is a day in the demo data that is counted from the day of filling: what a buying report shows must not be over by then.
var demoDay = regexp.MustCompile(`"today([+-]\d+)"`)

func demoDays(text []byte, today time.Time) []byte {
	return demoDay.ReplaceAllFunc(text, func(found []byte) []byte {
		days, _ := strconv.Atoi(string(demoDay.FindSubmatch(found)[1])) // the pattern admits nothing else
		return strconv.AppendQuote(nil, today.AddDate(0, 0, days).Format(time.DateOnly))
	})
}

// fillDemo sends the demo data and returns when Kafka has it. The client's partitioner must take the partition of the record or Kafka's own
// (murmur2). Filling again does no harm: reference records replace themselves, and the referral is judged already referred.
func fillDemo(ctx context.Context, client *kgo.Client, registry *schemas.Registry) error {
	for _, name := range demoTopics {
		text, err := demoFiles.ReadFile("demo/" + name + ".jsonl")
		if err != nil {
			return err
		}
		text = demoDays(text, time.Now().UTC())
		topic, _ := schemas.TopicNamed(name)
		codec, err := latestCodec(ctx, registry.Client(), name)
		if err != nil {
			return fmt.Errorf("demo data: %w", err)
		}
		_, ends, err := endOffsets(ctx, kadm.NewClient(client), name)
		if err != nil {
			return fmt.Errorf("demo data: %w", err)
		}
		s := &sender{topic: topic, opts: sendOptions{tenant: demoTenant, refField: "ref"}, codec: codec}
		records, bad := s.encode(chunk{first: 1, lines: bytes.Split(text, []byte("\n"))})
		if bad != nil {
			return fmt.Errorf("demo data of topic %s: %s", name, strings.Join(bad.named, "; "))
		}
		for _, rec := range records {
			rec.Partition = schemas.Partition(rec.Key, int32(len(ends)))
		}
		if err := client.ProduceSync(ctx, records...).FirstErr(); err != nil {
			return fmt.Errorf("send the demo data of topic %s: %w", name, err)
		}
	}
	return nil
}

// demoKeyFile holds the demo tenant's key, id.secret, in the data folder: it is shown at every start. Only its owner may read it.
const demoKeyFile = "demo-key"

var keyForm = regexp.MustCompile(`^[0-9A-Za-z]{6}\.[0-9A-Za-z]{22}$`)

// demoKey returns the key of tenant demo that the data folder keeps, and makes it where there is none yet; created says so. The record must
// still be written with [writeKey]: a crash may have come between the file and the topic.
func demoKey(dir string) (id, secret string, record schemas.APIKey, created bool, err error) {
	path := filepath.Join(dir, demoKeyFile)
	const note = "demo key, made by counterfoil up"
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		key, made, err := ingest.NewKey(demoTenant, ingest.KeyOptions{Note: note})
		if err != nil {
			return "", "", record, false, err
		}
		if err := keepFile(path, []byte(key+"\n")); err != nil {
			return "", "", record, false, err
		}
		id, secret, _ = strings.Cut(key, ".")
		return id, secret, *made, true, nil
	case err != nil:
		return "", "", record, false, fmt.Errorf("read the demo key: %w", err)
	}
	key := strings.TrimSpace(string(text))
	if !keyForm.MatchString(key) {
		return "", "", record, false, fmt.Errorf("%s does not hold a key of the form id.secret: delete it, and the next start makes another", path)
	}
	id, secret, _ = strings.Cut(key, ".")
	hash := sha256.Sum256([]byte(secret))
	record = schemas.APIKey{ID: id, Tenant: demoTenant, SecretHash: hash[:], Enabled: true, Note: note, CreatedAt: time.Now().UTC().Truncate(time.Millisecond)}
	return id, secret, record, false, nil
}
