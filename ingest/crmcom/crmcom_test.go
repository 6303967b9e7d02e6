package crmcom

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/counterfoil/counterfoil/ingest"
	"github.com/counterfoil/counterfoil/processors/validation"
	"github.com/counterfoil/counterfoil/schemas"
)

// testToken is what the published examples have in the place of a token.
const testToken = "{{token}}"

// core stands in for the core: it judges with the real rules, at once.
type core struct {
	t       *testing.T
	created []string // "number id" of the events to be created; then made up
	pending int
	refuse  error
	batches []*ingest.Batch
}

func (c *core) Authenticate(r *http.Request, door string, extra ...ingest.Credential) (*ingest.Caller, error) {
	if door != ingest.DoorCRM {
		c.t.Errorf("door %q", door)
	}
	credential := ingest.Credential{}
	if user, password, ok := r.BasicAuth(); ok {
		credential = ingest.PairCredential(user, password)
	}
	for _, e := range extra {
		if e.ID != "" {
			credential = e
		}
	}
	if credential.ID != "AbCdEf" || credential.Secret != "0123456789012345678901" || credential.Tenant != "" && credential.Tenant != "demo" {
		return nil, ingest.NewError(ingest.CodeUnauthenticated, "no")
	}
	return &ingest.Caller{Tenant: "demo", KeyID: "AbCdEf", Door: door}, nil
}

func (c *core) AuthenticateToken(_ *http.Request, door, token string) (*ingest.Caller, error) {
	if token != testToken {
		return nil, ingest.NewError(ingest.CodeUnauthenticated, "no")
	}
	return &ingest.Caller{Tenant: "demo", KeyID: "AbCdEf", Door: door}, nil
}

func (c *core) IssueToken(caller *ingest.Caller, unit string) string {
	return "token of " + caller.Tenant + "/" + caller.KeyID + "/" + unit
}

func (c *core) ReadBody(r *http.Request) ([]byte, error) {
	var b bytes.Buffer
	_, err := b.ReadFrom(r.Body)
	return b.Bytes(), err
}

func (c *core) Submit(_ context.Context, b *ingest.Batch) (*ingest.Receipt, error) {
	if c.refuse != nil {
		return nil, c.refuse
	}
	c.batches = append(c.batches, b)
	receipt := &ingest.Receipt{Number: 17, Results: make([]ingest.Result, len(b.Items)), Pending: c.pending}
	referred := map[string]bool{"rp0000000004": true}
	for i, item := range b.Items {
		result := ingest.Result{Index: i, Reasons: item.Defects}
		switch v := item.Value.(type) {
		case *schemas.CustomerEvent:
			if result.Reasons == nil {
				result.Reasons = validation.CheckEvent(v)
			}
			if result.Reasons == nil {
				var p schemas.EventResult
				if p, result.Reasons = validation.DecideEvent(b.Tenant, v, known{}); result.Reasons == nil {
					p.Number, p.ID = c.number(i)
					result.Processed = &p
				}
			}
		case *schemas.Referral:
			if result.Reasons == nil {
				result.Reasons = validation.CheckReferral(v)
			}
			if result.Reasons == nil {
				p, state, reasons := validation.DecideReferral(b.Tenant, v, known{}, func(id string) *schemas.ReferralState {
					if referred[id] {
						return &schemas.ReferralState{}
					}
					return nil
				})
				if result.Reasons = reasons; reasons == nil {
					referred[state.ReferredID] = true
					p.Number, p.ID = c.number(i)
					result.Processed = &p
				}
			}
		}
		receipt.Results[i] = result
	}
	return receipt, nil
}

func (c *core) number(i int) (int64, string) {
	if len(c.created) == 0 {
		return int64(i + 1), fmt.Sprintf("%032x", 0xabc0+i)
	}
	number, id, _ := strings.Cut(c.created[0], " ")
	c.created = c.created[1:]
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		c.t.Fatal(err)
	}
	return n, strings.ToLower(id)
}

// known is a small world: accounts and participants exist when their number has ten digits, everything else by name.
type known struct{}

func exists(value, prefix string) bool {
	digits, ok := strings.CutPrefix(value, prefix)
	return ok && len(digits) == 10
}

func (known) Account(_, field, value string) *schemas.Account {
	if field == "number" && exists(value, "ACR") || field == "name" && value == `Καφέ "A&B" <1>` {
		return &schemas.Account{ID: value, Number: value}
	}
	return nil
}

func (known) Participant(_, _, value string) *schemas.Participant {
	if exists(value, "RP") {
		return &schemas.Participant{ID: value, Number: value}
	}
	return nil
}

func (known) Unit(_, _, value string) *schemas.Unit {
	if value == "Admin Unit" {
		eur := "EUR"
		return &schemas.Unit{ID: "U1", Name: value, CurrencyCode: &eur}
	}
	return nil
}

func (known) Classification(_, _, value string) *schemas.Classification {
	for prefix, kind := range map[string]string{
		"Customer Feedback": schemas.EventAchievement, "Financial Achievement": schemas.EventFinancialAchievement, "Financial Statement": schemas.EventFinancialStatement,
	} {
		if strings.HasPrefix(value, prefix) {
			return &schemas.Classification{ID: value, Name: value, Kind: kind}
		}
	}
	return nil
}

func (known) Product(_, field, value string) *schemas.Product {
	if field == "code" && (value == "Serendipity" || value == "Bronze") {
		return &schemas.Product{ID: value, Code: value}
	}
	return nil
}

func (known) PaymentMediumType(_, _, value string) *schemas.PaymentMediumType {
	return &schemas.PaymentMediumType{ID: value}
}

func (known) PaymentMediumBrand(_, _, value string) *schemas.PaymentMediumBrand {
	return &schemas.PaymentMediumBrand{ID: value}
}
func (known) KPI(_, _, value string) *schemas.KPI         { return &schemas.KPI{ID: value} }
func (known) Invoice(_, _, value string) *schemas.Invoice { return &schemas.Invoice{ID: value} }

// serve sends one request to an adapter over c.
func serve(c *core, method, path string, header http.Header, body string) *httptest.ResponseRecorder {
	mux := http.NewServeMux()
	New(c).Register(mux)
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for name, values := range header {
		r.Header[name] = values
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	return w
}

// TestTranscripts plays the requests in testdata. A file holds a request (method and path, headers, body), the numbers and ids of the events that are
// created, and the answer (status, headers to look at, body). Bodies are compared byte by byte, but for blanks outside texts.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal(err, "no transcripts")
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			parts := map[string]string{}
			for _, f := range archive.Files {
				parts[f.Name] = string(f.Data)
			}
			first, header, body := message(parts["request"])
			method, path, _ := strings.Cut(first, " ")
			c := &core{t: t}
			if parts["created"] != "" {
				c.created = strings.Split(strings.TrimSpace(parts["created"]), "\n")
			}
			w := serve(c, method, path, header, body)
			status, wantHeader, want := message(parts["answer"])
			if got := strconv.Itoa(w.Code); got != status {
				t.Errorf("status %s, want %s", got, status)
			}
			for name := range wantHeader {
				if got, want := w.Header().Get(name), wantHeader.Get(name); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
			if diff := cmp.Diff(compact(t, want), w.Body.String()); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

// message splits the first line, the headers and the body of a transcript's message.
func message(text string) (first string, header http.Header, body string) {
	head, body, _ := strings.Cut(text, "\n\n")
	lines := strings.Split(head, "\n")
	header = http.Header{}
	for _, line := range lines[1:] {
		if name, value, ok := strings.Cut(line, ": "); ok {
			header.Add(name, value)
		}
	}
	return strings.TrimSpace(lines[0]), header, body
}

func compact(t *testing.T, s string) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(s)); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
