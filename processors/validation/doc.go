// Package validation decides about customer events (the kind customer_events: purchases, achievements, …), referrals and financial
// transactions.
//
// [CheckEvent] and [CheckReferral] need nothing but the item and find all of its defects (check.go). [DecideEvent] and [DecideReferral]
// judge what passed against the reference records and, for referrals, against who was referred before (decide.go); they collect all
// reasons too. A transaction needs [CheckTransaction] only (transactions.go). [CheckRecord] does
// the same for records of reference and fact topics, wherever they come in (references.go; records.go for those that lie in Kafka). The functions
// are pure: the same arguments give the same answer, nothing else is read or changed.
//
// # What a kind requires
//
//	                          achievement  purchase  referral  social_media  web  financial_achievement  financial_statement
//	account xor participant        M           M         –           M        M             M                      M
//	classification                 M           O         O           O        O             M                      M
//	unit, performed_on             M           M         M           M        M             M                      M
//	referred, referred_by                                M
//	reference_number, products                 M
//	social_media, profile, action                                    M
//	website                                                                   M
//	payment_medium_type, _brand                O                                            O
//	invoice, intended_currency                 O
//	product, amount                                                                         O
//	measures                                                                                                       O
//
// M mandatory, O optional. Of a purchase's lines product and the three amounts are mandatory, of a statement's measures kpi and value.
// Members that belong to other kinds are ignored: they are neither required nor resolved nor compared. Only what could not be kept
// (text that is not UTF-8, an instant or a decimal out of range) is a defect wherever it stands, because an outcome carries its item whole.
//
// # Choices
//
//   - An identifier has exactly one member that is not null, and that one is not blank. An object without any is a defect where the
//     identifier is optional too: whoever sends it meant something.
//   - Ids are compared without regard to case, everything else (names, codes, FACEBOOK, LIKE) exactly.
//   - Amounts are those of a whole line and may be negative (refunds). A total that is not net plus VAT is kept as sent and flagged.
//   - A payment medium must be allowed on the account, which is the participant's where the event names a participant. Where no account
//     is known there is nothing to check.
//   - An intended currency is compared with the unit's default currency; a unit without one has no currency that could match.
//
// # Fields of reasons
//
// Adapters map a reason by its code and by the first name of its field's path, an index taken off. Value is what the column says.
//
//	field                                   names               codes                                       value
//	kind                                    –                   missing, invalid                            as sent
//	account                                 an account          missing, multiple_identifiers, not_found    the identifier as sent
//	participant                             a participant       missing, multiple_identifiers, not_found    the identifier as sent
//	referred                                a participant       the same, already_referred, self_referral   as sent; of these two the participant's number
//	referred_by                             a participant       missing, multiple_identifiers, not_found    the identifier as sent
//	classification                          a classification    the same, invalid (of another kind)         the identifier as sent
//	unit                                    a unit              missing, multiple_identifiers, not_found    the identifier as sent
//	payment_medium_type, _brand             a type, a brand     the same, not_allowed                       the identifier as sent
//	invoice                                 an invoice          the same                                    the identifier as sent
//	product, products[0].product            a product           the same                                    the identifier as sent
//	measures[0].product                     a product           the same                                    the identifier as sent
//	measures[0].kpi                         a KPI               the same                                    the identifier as sent
//	intended_currency                       a currency          the same without not_found,                 the identifier as sent
//	                                                            currency_mismatch
//	products                                –                   missing (null or without a line)            –
//	products[0].net_amount, .vat_amount,
//	.total_amount, .quantity                –                   missing, out_of_range                       –
//	measures[0].value, amount               –                   missing, out_of_range                       –
//	performed_on, udf_date_1 …              –                   missing, out_of_range                       –
//	reference_number, profile, website      –                   missing, invalid                            –
//	social_media, action                    –                   missing, invalid                            as sent
//	description, udf_string_1 …, other texts –                  invalid                                     –
//	udf_float_1 …                           –                   invalid                                     –
//
// Neither of account and participant, or both, is a defect of account, without a value; where an identifier itself is given by several
// members, the value of multiple_identifiers is their names (id,number). Any identifier may also be invalid or out_of_range (NUL, UTF-8,
// length). An item with very many defects lists the first of them, and a last reason without a field says how many are left out.
package validation
