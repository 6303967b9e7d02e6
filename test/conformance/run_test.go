package conformance

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/test/harness"
)

func TestMain(m *testing.M) {
	_ = flag.Set("test.parallel", "8") // transcripts wait most of their time, for outcomes and rows
	harness.Main(m)
}

// namedKeys are keys that transcripts name: all of a tenant that is nobody else's.
var namedKeys = map[string]func(*schemas.APIKey){
	"other":     func(*schemas.APIKey) {},
	"disabled":  func(k *schemas.APIKey) { k.Enabled = false },
	"elsewhere": func(k *schemas.APIKey) { k.AllowedIPs = &[]string{"192.0.2.0/24"} },
	"here":      func(k *schemas.APIKey) { k.AllowedIPs = &[]string{"192.0.2.0/24", "127.0.0.1"} },
	"crmonly":   func(k *schemas.APIKey) { k.Doors = &[]string{"crm.com"} },
	"helloonly": func(k *schemas.APIKey) { k.Doors = &[]string{"helloid"} },
}

func TestTranscripts(t *testing.T) {
	up := harness.StartUp(t, harness.Env("TOKEN_SECRETS="+tokenSecret, "SINK_WAIT=10s", "REPLY_WAIT=25s"))
	transcripts := load(t, ".")
	keys := map[string]harness.Key{}
	for name, change := range namedKeys {
		keys[name] = up.CreateKey("other", change)
	}
	run := func(t *testing.T, round string, demo bool) {
		mine := map[string]harness.Key{}
		var tenants []string
		for _, name := range sortedNames(transcripts) {
			tenant := strings.ReplaceAll(name, "-", "_") + "_" + round
			mine[name] = up.CreateKey(tenant)
			tenants = append(tenants, tenant)
		}
		up.CopyReferences("demo", tenants...)
		putReferences(&up.Parts, tenants...)
		putFacts(&up.Parts, tenants...)
		for _, k := range []harness.Key{keys["other"], mine[transcripts[len(transcripts)-1].name]} {
			harness.NewClient(up.URL, k).LogIn(t) // until ingest knows the last of the keys
		}
		for _, tr := range transcripts {
			if tr.demo && !demo {
				continue
			}
			t.Run(tr.name, func(t *testing.T) {
				t.Parallel()
				r := &runner{t: t, url: up.URL, parts: &up.Parts, me: mine[tr.name], keys: keys, saved: map[string]string{}}
				if tr.demo {
					r.me = up.Key
				}
				r.run(tr)
			})
		}
	}
	t.Run("first start", func(t *testing.T) { run(t, "a", true) })
	if t.Failed() {
		return // the second start would say the same again
	}
	before := counts(up)
	up.Interrupt()
	up.Restart()
	if after := counts(up); after != before {
		t.Fatalf("rows before the restart %s, after it %s", before, after)
	}
	t.Run("second start", func(t *testing.T) { run(t, "b", false) })
}

// counts are the rows of the log tables once the sink has everything.
func counts(up *harness.Up) string {
	up.WaitDrained(time.Minute)
	var all []string
	for _, table := range []string{"batches", "ownership", "customer_events", "referrals", "sales", "transactions", "unprocessed", "dead_letters"} {
		all = append(all, fmt.Sprintf("%s %s", table, up.SQL("SELECT count() FROM "+table)))
	}
	return strings.Join(all, ", ")
}
