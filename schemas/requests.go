package schemas

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Names of the headers that a record of the topic requests has beside its envelope, for as long as it is there.
const (
	HeaderTarget         = "target"
	HeaderRoute          = "route"
	HeaderIdempotencyKey = "idempotency_key"
	HeaderBodyHash       = "body_hash"
	HeaderLast           = "last"
)

// Passage is what a record of the topic requests carries beside its envelope: where it is to go, and the request that it is part of. Key,
// value and envelope of the record are those that it will have there.
type Passage struct {
	Topic     string
	Partition int32
	Route     string // of the request: what was called, such as "v1 sales"
	Key       string // its Idempotency-Key
	BodyHash  []byte // SHA-256 of its body; on the batch's header alone, which is judged for the whole batch
	Last      bool   // it is the last record of its batch: when it has been passed on, so have all
}

// Headers appends the passage to dst.
func (p *Passage) Headers(dst []kgo.RecordHeader) []kgo.RecordHeader {
	dst = append(dst,
		kgo.RecordHeader{Key: HeaderTarget, Value: fmt.Appendf(nil, "%s/%d", p.Topic, p.Partition)},
		kgo.RecordHeader{Key: HeaderRoute, Value: []byte(p.Route)},
		kgo.RecordHeader{Key: HeaderIdempotencyKey, Value: []byte(p.Key)})
	if p.BodyHash != nil {
		dst = append(dst, kgo.RecordHeader{Key: HeaderBodyHash, Value: p.BodyHash})
	}
	if p.Last {
		dst = append(dst, kgo.RecordHeader{Key: HeaderLast})
	}
	return dst
}

// ParsePassage reads the passage, and returns the headers that are left for the target. The error says which header is missing or malformed.
func ParsePassage(headers []kgo.RecordHeader) (p Passage, rest []kgo.RecordHeader, err error) {
	rest = make([]kgo.RecordHeader, 0, len(headers))
	partition := int64(-1)
	for _, h := range headers {
		switch h.Key {
		case HeaderTarget:
			if i := bytes.LastIndexByte(h.Value, '/'); i > 0 {
				p.Topic = string(h.Value[:i])
				if partition, err = strconv.ParseInt(string(h.Value[i+1:]), 10, 32); err != nil {
					partition = -1
				}
			}
		case HeaderRoute:
			p.Route = string(h.Value)
		case HeaderIdempotencyKey:
			p.Key = string(h.Value)
		case HeaderBodyHash:
			p.BodyHash = h.Value
		case HeaderLast:
			p.Last = true
		default:
			rest = append(rest, h)
		}
	}
	p.Partition = int32(partition)
	topic, known := TopicNamed(p.Topic)
	switch {
	case !known || partition < 0 || !topic.passable():
		return p, rest, fmt.Errorf("header %s must be topic/partition of a topic that requests are made of", HeaderTarget)
	case p.Route == "" || strings.Contains(p.Route, "\x00"):
		return p, rest, fmt.Errorf("header %s must not be empty", HeaderRoute)
	case p.Key == "":
		return p, rest, fmt.Errorf("header %s must not be empty", HeaderIdempotencyKey)
	case p.Topic == Batches && len(p.BodyHash) != sha256.Size:
		return p, rest, fmt.Errorf("header %s must have %d bytes", HeaderBodyHash, sha256.Size)
	}
	return p, rest, nil
}

// passable reports whether requests have records for the topic: whoever may write to requests must not reach any other that way.
func (t *Topic) passable() bool {
	switch t.Role {
	case RoleBatches, RoleItem, RoleProcessed, RoleUnprocessed, RoleFact:
		return true
	case RoleReference:
		return t.Name != APIKeys
	default:
		return false
	}
}

// PassableTopics lists the topics that records of requests go to.
func PassableTopics() []string {
	var names []string
	for i := range topics {
		if topics[i].passable() {
			names = append(names, topics[i].Name)
		}
	}
	return names
}

// RequestKey identifies a request with an idempotency key: by tenant, route and key, in this order. It decides the partition of requests
// and is the key of the changelog.
func RequestKey(tenant, route, key string) []byte {
	return fmt.Appendf(nil, "%s\x00%s\x00%s", tenant, route, key)
}

// MaxIdempotencyKey is how many characters an Idempotency-Key may have.
const MaxIdempotencyKey = 255

// ErrIdempotencyKey is returned by [CheckIdempotencyKey].
var ErrIdempotencyKey = errors.New("Idempotency-Key must have 1 to 255 printable ASCII characters, and be given once")

// CheckIdempotencyKey checks the values of the header Idempotency-Key. The key is taken as it stands: also quotes, with which the IETF's draft
// (draft-ietf-httpapi-idempotency-key-header) writes it, are part of it.
func CheckIdempotencyKey(values []string) error {
	if len(values) != 1 || len(values[0]) == 0 || len(values[0]) > MaxIdempotencyKey {
		return ErrIdempotencyKey
	}
	for i := 0; i < len(values[0]); i++ {
		if c := values[0][i]; c < ' ' || c > '~' {
			return ErrIdempotencyKey
		}
	}
	return nil
}
