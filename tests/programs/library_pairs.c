/* Takes and releases objects of real libraries, and says what it has kept:
 *
 *   done SSL FILES BLOCKS BLOCK_BYTES LIBRARIES
 *
 * Their headers are not needed: these functions have had the same arguments for many years. */
#include "scenario.h"
#include <dlfcn.h>
#include <stdio.h>

void *TLS_client_method(void);
void *SSL_CTX_new(const void *method);
void *SSL_new(void *context);
void SSL_free(void *ssl);
void *sqlite3_malloc(int size);
void sqlite3_free(void *block);
int sqlite3_open(const char *name, void **database);
int sqlite3_close(void *database);

static unsigned long long ssl_kept, files_kept, blocks_kept, bytes_kept, libraries_kept;

SCENARIO use_ssl(void *context) {
    for (int i = 0; i < (int)opaque(60); i++) {
        void *ssl = SSL_new(context);
        if (ssl == NULL)
            _exit(75);
        if (i % 5)
            SSL_free(ssl);
        else
            ssl_kept++;
    }
}

SCENARIO use_files(void) {
    for (int i = 0; i < (int)opaque(40); i++) {
        FILE *file = fopen(i % 4 ? "/dev/null" : "/nonexistent/file", "r");
        if (file != NULL && i % 3)
            fclose(file);
        else if (file != NULL)
            files_kept++;
    }
}

SCENARIO use_blocks(void) {
    for (int i = 1; i <= (int)opaque(90); i++) {
        void *block = sqlite3_malloc(i * 10);
        if (block == NULL)
            _exit(76);
        if (i % 9) {
            sqlite3_free(block);
        } else {
            blocks_kept++;
            bytes_kept += (unsigned)i * 10;
        }
    }
    sqlite3_malloc(0); /* NULL */
    sqlite3_malloc(-1);
    sqlite3_free(NULL);
}

SCENARIO use_libraries(void) {
    void *kept = dlopen("libm.so.6", RTLD_NOW), *unloaded = dlopen("libresolv.so.2", RTLD_NOW);
    if (kept == NULL || unloaded == NULL || dlclose(unloaded))
        _exit(77);
    if (dlopen("libnever.so", RTLD_NOW) != NULL)
        _exit(78);
    libraries_kept = 1;
}

int main(void) {
    void *database = NULL, *context = SSL_CTX_new(TLS_client_method());

    if (context == NULL || sqlite3_open(":memory:", &database))
        _exit(79);
    SSL_free(SSL_new(context)); /* what is initialised once is initialised */
    sqlite3_free(sqlite3_malloc(1));
    await_go();
    use_ssl(context);
    use_files();
    use_blocks();
    use_libraries();
    char answer[160] = "done";
    char *end = answer + 4;
    unsigned long long figures[] = {ssl_kept, files_kept, blocks_kept, bytes_kept, libraries_kept};
    for (size_t i = 0; i < 5; i++) {
        *end++ = ' ';
        end = put_number(end, figures[i]);
    }
    *end++ = '\n';
    *end = '\0';
    say(answer);
    await_line();
    sqlite3_close(database);
    return 0;
}
