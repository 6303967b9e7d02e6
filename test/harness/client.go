package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// Client calls the partners' APIs of one ingest copy with one key. It is safe for concurrent use once it is logged in.
type Client struct {
	URL   string
	Key   Key
	HTTP  *http.Client
	token string // CRM.COM
	keyed string // Idempotency-Key
}

// NewClient makes a client with connections of its own.
func NewClient(url string, key Key) *Client {
	return &Client{URL: url, Key: key, HTTP: &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			MaxIdleConnsPerHost: 64,
		},
	}}
}

// At is the same client, with the same token, at another copy.
func (c *Client) At(url string) *Client {
	other := *c
	other.URL = url
	return &other
}

// Keyed is the same client, which sends an Idempotency-Key with every request.
func (c *Client) Keyed(key string) *Client {
	other := *c
	other.keyed = key
	return &other
}

// Answer is what came back.
type Answer struct {
	Status int // HTTP
	Header http.Header
	Body   []byte
	CRM    *CRMAnswer // of CRM.COM, where the body is one
	keyed  bool
}

// Replayed says that the answer is that of an earlier request with the same Idempotency-Key.
func (a *Answer) Replayed() bool { return a.Header.Get("Idempotent-Replayed") == "true" }

// CRMAnswer is CRM.COM's envelope.
type CRMAnswer struct {
	Data struct {
		Token       string
		Processed   []CRMProcessed   `json:"processed_customer_events_set"`
		Unprocessed []CRMUnprocessed `json:"unprocessed_customer_events_set"`
	}
	Status struct{ Code, Description, Message string }
}

// CRMProcessed is a row of the processed set.
type CRMProcessed struct {
	Ref    string `json:"request_unique_identifier"`
	ID     string
	Number string
}

// CRMUnprocessed is a row of the unprocessed set.
type CRMUnprocessed struct {
	Ref  string `json:"request_unique_identifier"`
	Code string `json:"error_code"`
	Text string `json:"error_description"`
}

// Verdict is what an answer says about the batch as a whole.
type Verdict int

// Verdicts. Unknown is an answer that never came, and every 5xx but 503: the batch is there whole or not at all. 503 promises that nothing was
// done, but where the request had an Idempotency-Key.
const (
	Unknown Verdict = iota
	Accepted
	Refused
)

// Verdict says whether the batch was accepted: a 2xx, and with CRM.COM, which answers 200 to refused calls, one of its codes for that.
func (a *Answer) Verdict() Verdict {
	switch {
	case a == nil || a.Status >= 500 && (a.keyed || a.Status != http.StatusServiceUnavailable):
		return Unknown
	case a.Status >= 300:
		return Refused
	case a.CRM != nil && a.CRM.Status.Code != "OK" && a.CRM.Status.Code != "PENDING":
		return Refused
	default:
		return Accepted
	}
}

// Post sends a JSON body. An error says that no whole answer came.
func (c *Client) Post(ctx context.Context, path string, body any) (*Answer, error) {
	text, ok := body.([]byte)
	if !ok {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	return c.PostAs(ctx, path, "application/json", text)
}

// PostAs sends a body of a media type.
func (c *Client) PostAs(ctx context.Context, path, mediaType string, body []byte) (*Answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", mediaType)
	if c.keyed != "" {
		req.Header.Set("Idempotency-Key", c.keyed)
		req.GetBody = nil // or net/http sends it again by itself where a connection breaks, and a test knows of one request only
	}
	return c.do(req)
}

// Get asks for a path.
func (c *Client) Get(ctx context.Context, path string) (*Answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL+path, nil)
	if err != nil {
		return nil, err
	}
	return c.do(req)
}

func (c *Client) do(req *http.Request) (*Answer, error) {
	req.SetBasicAuth(c.Key.ID, c.Key.Secret)
	res, err := c.HTTP.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	return &Answer{Status: res.StatusCode, Header: res.Header, Body: body, keyed: c.keyed != ""}, nil
}

// HelloID sends changes of ownership, each a JSON object, to the batch route.
func (c *Client) HelloID(ctx context.Context, items any) (*Answer, error) {
	return c.Post(ctx, "/api/v1/productownership/batch/", items)
}

// Mediahawk sends sales, each a JSON object, with a lookback of months.
func (c *Client) Mediahawk(ctx context.Context, lookback int, sales any) (*Answer, error) {
	return c.Post(ctx, "/rest/v2_0/sales/batches", map[string]any{"lookback": lookback, "sales": sales})
}

// Avon sends financial transactions, each a JSON object.
func (c *Client) Avon(ctx context.Context, transactions any) (*Answer, error) {
	return c.Post(ctx, "/financial-transaction-batches", map[string]any{"financialTransactions": transactions})
}

// V1 sends items of a kind, each a JSON object, to our own API.
func (c *Client) V1(ctx context.Context, kind string, items any) (*Answer, error) {
	return c.Post(ctx, "/v1/"+kind, items)
}

// LogIn gets the token that CRM sends. The test ends when it fails.
func (c *Client) LogIn(t testing.TB) {
	t.Helper()
	Eventually(t, 20*time.Second, func() string { // a new key opens within a second
		if err := c.logIn(t.Context()); err != nil {
			return err.Error()
		}
		return ""
	})
}

func (c *Client) logIn(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL+"/crmapi/rest/v2/authentication/web_api_key/token", bytes.NewReader([]byte("{}")))
	if err != nil {
		return err
	}
	req.SetBasicAuth(c.Key.String(), "")
	res, err := c.HTTP.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	var answer CRMAnswer
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		return fmt.Errorf("log in: HTTP %d: %w", res.StatusCode, err)
	}
	if answer.Status.Code != "OK" || answer.Data.Token == "" {
		return fmt.Errorf("log in: HTTP %d: %+v", res.StatusCode, answer.Status)
	}
	c.token = answer.Data.Token
	return nil
}

// CRM sends rows of a kind: the path's last part but one ("web", "purchases") and the member that holds the rows.
func (c *Client) CRM(ctx context.Context, kind, set string, rows any) (*Answer, error) {
	if c.token == "" {
		return nil, errors.New("not logged in")
	}
	answer, err := c.Post(ctx, "/crmapi/rest/v2/customer_events/bulk/"+kind+"/create", map[string]any{"token": c.token, set: rows})
	if err != nil {
		return nil, err
	}
	var crm CRMAnswer
	if json.Unmarshal(answer.Body, &crm) == nil && crm.Status.Code != "" {
		answer.CRM = &crm
	}
	return answer, nil
}

// Web sends rows of web events.
func (c *Client) Web(ctx context.Context, rows any) (*Answer, error) {
	return c.CRM(ctx, "web", "web_customer_events_set", rows)
}

// Token is CRM.COM's token of the client; empty before LogIn.
func (c *Client) Token() string { return c.token }
