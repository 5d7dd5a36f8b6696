/* libwebsockets with its default event loop, poll. A message is joined from the parts that it comes in, queued, and written whole. */
#include <libwebsockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct message {
	struct message *next;
	size_t len, room;
	enum lws_write_protocol kind;
	unsigned char bytes[]; /* LWS_PRE for the header, then the payload. */
};

struct session {
	struct message *coming, *first, **last;
};

static int append(struct session *session, const void *in, size_t len, size_t more)
{
	struct message *m = session->coming;
	if (!m || m->room < m->len + len) {
		size_t before = m ? m->len : 0, room = before + len + more;
		m = realloc(m, sizeof *m + LWS_PRE + room);
		if (!m)
			return -1;
		m->len = before;
		m->room = room;
		session->coming = m;
	}
	memcpy(m->bytes + LWS_PRE + m->len, in, len);
	m->len += len;
	return 0;
}

static int callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len)
{
	struct session *session = user;
	struct message *m;
	int failed;

	switch (reason) {
	case LWS_CALLBACK_ESTABLISHED:
		session->last = &session->first;
		break;
	case LWS_CALLBACK_RECEIVE:
		if (append(session, in, len, lws_remaining_packet_payload(wsi)))
			return -1;
		if (!lws_is_final_fragment(wsi) || lws_remaining_packet_payload(wsi))
			break;
		m = session->coming;
		session->coming = NULL;
		m->kind = lws_frame_is_binary(wsi) ? LWS_WRITE_BINARY : LWS_WRITE_TEXT;
		m->next = NULL;
		*session->last = m;
		session->last = &m->next;
		lws_callback_on_writable(wsi);
		break;
	case LWS_CALLBACK_SERVER_WRITEABLE:
		m = session->first;
		if (!m)
			break;
		session->first = m->next;
		if (!session->first)
			session->last = &session->first;
		failed = lws_write(wsi, m->bytes + LWS_PRE, m->len, m->kind) < (int)m->len;
		free(m);
		if (failed)
			return -1;
		if (session->first)
			lws_callback_on_writable(wsi);
		break;
	case LWS_CALLBACK_CLOSED:
		free(session->coming);
		while ((m = session->first)) {
			session->first = m->next;
			free(m);
		}
		break;
	default:
		break;
	}
	return 0;
}

int main(void)
{
	struct lws_protocols protocols[] = {
		{ .name = "echo", .callback = callback, .per_session_data_size = sizeof(struct session) },
		{ 0 },
	};
	struct lws_context_creation_info info = {
		.iface = "127.0.0.1",
		.protocols = protocols,
		.vhost_name = "echo",
		/* What is read at once, into a buffer that all connections share. 4 KiB unless told. */
		.pt_serv_buf_size = 256 * 1024,
		.options = LWS_SERVER_OPTION_EXPLICIT_VHOSTS | LWS_SERVER_OPTION_VALIDATE_UTF8,
	};
	lws_set_log_level(LLL_ERR, NULL);
	struct lws_context *context = lws_create_context(&info);
	struct lws_vhost *vhost = context ? lws_create_vhost(context, &info) : NULL;
	if (!vhost)
		return 1;
	printf("listening on ws://127.0.0.1:%d/ws\n", lws_get_vhost_listen_port(vhost));
	fflush(stdout);
	while (lws_service(context, 0) >= 0) {
	}
	lws_context_destroy(context);
	return 0;
}
